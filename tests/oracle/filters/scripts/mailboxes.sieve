#### fileinto create
require ["fileinto", "mailbox"];
fileinto :create "New";
#### fileinto create below
require ["fileinto", "mailbox"];
fileinto :create "Deep/er/and deeper";
#### fileinto create what is there
require ["fileinto", "mailbox"];
fileinto :create "Work";
#### fileinto create with flags and copy
require ["fileinto", "mailbox", "copy", "imap4flags"];
fileinto :create :copy :flags ["\\Seen", "made"] "New";
#### fileinto create in UTF-8
require ["fileinto", "mailbox"];
fileinto :create "Größe & Maß";
#### fileinto create from the header
require ["fileinto", "mailbox", "variables"];
if header :matches "list-id" "*<*.*.*>*" { set :lower "name" "${2}"; fileinto :create "Lists/${name}"; }
#### mailboxexists
require ["fileinto", "mailbox"];
if mailboxexists "Nowhere" { fileinto "Nowhere"; }
elsif mailboxexists ["Work", "INBOX"] { fileinto "Work"; }
#### mailboxexists after create
require ["fileinto", "mailbox", "imap4flags", "copy"];
if mailboxexists "Later" { addflag "there"; } else { addflag "new"; }
fileinto :create :copy "Later";
if mailboxexists "Later" { addflag "behind"; }
#### special use
require ["fileinto", "special-use"];
if header :is "x-spam-flag" "YES" { fileinto :specialuse "\\Junk" "Nowhere"; }
else { fileinto :specialuse "\\Archive" "Work"; }
#### special use that nobody has
require ["fileinto", "special-use"];
fileinto :specialuse "\\Flagged" "Work";
#### special use and create
require ["fileinto", "special-use", "mailbox"];
fileinto :specialuse "\\Junk" :create "Spam";
#### special use, the name is not there
require ["fileinto", "special-use"];
fileinto :specialuse "\\Sent" "Nowhere";
#### specialuse_exists
require ["fileinto", "special-use"];
if specialuse_exists "\\Junk" { fileinto "Junk"; }
#### a dot and a slash
require ["fileinto", "mailbox"];
fileinto :create "With.dot";
#### odd names
require ["fileinto"];
fileinto "Work/";
#### a name with a wildcard
require ["fileinto"];
fileinto "Wor*";
#### metadata of a mailbox
require ["mboxmetadata", "imap4flags"];
if metadata "INBOX" "/private/comment" "about the inbox" { addflag "is"; }
if metadata :contains "INBOX" "/private/comment" "INBOX" { addflag "contains"; }
if metadata :matches "Work" "/private/comment" "*" { addflag "work"; }
if metadata "INBOX" "/private/nothing" "" { addflag "nothing"; }
if metadataexists "INBOX" "/private/comment" { addflag "exists"; }
if metadataexists "INBOX" ["/private/comment", "/private/nothing"] { addflag "both"; }
#### metadata of a mailbox that is not there
require ["mboxmetadata", "imap4flags"];
addflag "before";
if metadataexists "Nowhere" "/private/comment" { addflag "nowhere"; }
#### metadata in a variable
require ["mboxmetadata", "variables", "editheader"];
if metadata :matches "INBOX" "/private/comment" "about *" { addheader :last "X-Meta" "${1}"; }
#### metadata of the server
require ["servermetadata", "imap4flags"];
if servermetadata "/private/comment" "x" { addflag "private"; }
if servermetadata :matches "/shared/nothing" "*" { addflag "nothing"; }
if servermetadataexists "/shared/nothing" { addflag "exists"; }
#### INBOX and what is below
require ["fileinto", "mailbox"];
fileinto :create "INBOX/below";
