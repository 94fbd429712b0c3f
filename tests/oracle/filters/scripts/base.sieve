#### nothing
#### a comment
# nothing
/* and nothing
   here */
#### keep
keep;
#### discard
discard;
#### discard, keep
discard;
keep;
#### keep twice
keep;
keep;
#### stop first
require "fileinto";
stop;
fileinto "Work";
#### stop in a block
require "fileinto";
if header :contains "subject" "order" {
    fileinto "Work";
    stop;
}
fileinto "Lists/Sieve";
#### fileinto
require "fileinto";
fileinto "Work";
#### fileinto a mailbox that is not there
require "fileinto";
fileinto "Nowhere";
#### fileinto INBOX in lower case
require "fileinto";
fileinto "inbox";
keep;
#### fileinto two
require "fileinto";
fileinto "Work";
fileinto "Lists/Sieve";
#### fileinto the same twice
require "fileinto";
fileinto "Work";
fileinto "Work";
#### fileinto and keep
require "fileinto";
fileinto "Work";
keep;
#### fileinto, discard
require "fileinto";
fileinto "Work";
discard;
#### fileinto a name that is not ASCII
require "fileinto";
fileinto "Été";
#### fileinto some that are there and some that are not
require "fileinto";
fileinto "Work";
fileinto "Nowhere";
fileinto "Lists/Sieve";
#### fileinto copy
require ["fileinto", "copy"];
fileinto :copy "Work";
#### fileinto copy, discard
require ["fileinto", "copy"];
fileinto :copy "Work";
discard;
#### fileinto copy of the same as keep
require ["fileinto", "copy"];
fileinto :copy "INBOX";
keep;
#### if, elsif, else
require "fileinto";
if header :contains "subject" "tea" {
    fileinto "Work";
} elsif header :contains "subject" "order" {
    fileinto "Lists/Sieve";
} elsif not exists "subject" {
    discard;
} else {
    keep;
}
#### nested blocks
require "fileinto";
if true {
    if address :domain "from" "wonderland.example" {
        if size :over 10 { fileinto "Work"; } else { discard; }
    } elsif header :is "x-spam-flag" "YES" {
        fileinto "Junk";
    } else {
        if allof (exists "list-id", not header :contains "subject" "URGENT") { fileinto "Lists/Sieve"; }
    }
}
#### elsif behind a nested if
require "imap4flags";
if true {
    if false { addflag "a"; } else { addflag "b"; }
} elsif true { addflag "c"; } else { addflag "d"; }
if false { addflag "e"; } elsif false { addflag "f"; } elsif true { addflag "g"; } else { addflag "h"; }
#### words in any case
ReQuIrE ["fileinto"];
IF HEADER :CONTAINS "SUBJECT" "TEA" { FILEINTO "Work"; } ELSE { KEEP; }
#### multi-line text
require ["fileinto", "reject", "editheader"];
addheader "X-Text" text: # a comment behind it
first line
..second line begins with a dot
third
.
;
#### strings
require ["editheader", "variables"];
set "a" "quo\"te back\\slash \other";
set "b" "two
lines";
set "c" "$ {no} ${1abc} ${} ${a.b.c} ${a";
addheader :last "X-A" "${a}";
addheader :last "X-B" "${b}";
addheader :last "X-C" "${c}";
addheader :last "X-D" "tab	end";
#### numbers
require "imap4flags";
if size :over 1k { addflag "k1"; }
if size :over 1K { addflag "k2"; }
if size :over 0001 { addflag "one"; }
if size :under 1M { addflag "m"; }
if size :under 1G { addflag "g"; }
if size :over 2147483647 { addflag "big"; }
#### RFC 5228 section 9
require ["fileinto"];
if header :is "Sender" "owner-ietf-mta-filters@imc.org"
        {
        fileinto "Work";
        }
elsif address :DOMAIN :is ["From", "To"] "example.com"
        {
        keep;
        }
elsif anyof (NOT address :all :contains
               ["To", "Cc", "Bcc"] "me@example.com",
             header :matches "subject"
               ["*make*money*fast*", "*university*dipl*mas*"])
        {
        fileinto "Junk";
        }
else
        {
        fileinto "Lists/Sieve";
        }
#### empty lists of tests in blocks
if true { }
if false { discard; }
#### header names with odd letters
require "imap4flags";
if exists "X_Y.Z!" { addflag "odd"; }
if header :is "subject " "x" { addflag "space"; }
if header :contains "sub:ject" "" { addflag "colon"; }
#### many fileinto by mail
require ["fileinto", "copy", "imap4flags"];
if header :contains "subject" "e" { fileinto :copy "Work"; }
if header :contains "from" "e" { fileinto :copy "Lists/Sieve"; }
if size :over 5K { fileinto :copy :flags "\\Flagged" "Archive"; }
if size :under 50K { fileinto :copy "Été"; }
if exists "list-id" { discard; }
#### a null sender
require ["envelope", "fileinto"];
if envelope :is "from" "" { fileinto "Work"; }
#### received counted with the one of the server
require ["relational", "comparator-i;ascii-numeric", "imap4flags"];
if header :count "eq" :comparator "i;ascii-numeric" "received" "1" { addflag "one"; }
if header :count "eq" :comparator "i;ascii-numeric" "received" "3" { addflag "three"; }
if header :count "eq" :comparator "i;ascii-numeric" "return-path" "1" { addflag "path"; }
if header :count "eq" :comparator "i;ascii-numeric" "delivered-to" "1" { addflag "to"; }
if header :contains "delivered-to" "%me%@example.com" { addflag "me"; }
if header :contains "return-path" "<" { addflag "angle"; }
if address :is "return-path" "alice@wonderland.example" { addflag "alice"; }
if header :contains "received" "%me%" { addflag "for"; }
