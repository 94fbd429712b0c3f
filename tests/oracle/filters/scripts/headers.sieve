#### addheader
require "editheader";
addheader "X-First" "one";
addheader "X-Second" "two";
addheader :last "X-Last" "end";
#### addheader, then look
require ["editheader", "imap4flags", "fileinto"];
addheader "X-New" "value";
if header :is "x-new" "value" { addflag "seen"; }
if exists "X-New" { fileinto "Work"; }
#### deleteheader
require "editheader";
deleteheader "X-Twice";
deleteheader "Subject";
#### deleteheader by value
require "editheader";
deleteheader :is "X-Twice" "second";
deleteheader :contains "Subject" ["tea", "order"];
deleteheader :matches "X-Seq" "?";
#### deleteheader by index
require "editheader";
deleteheader :index 2 "X-Twice";
deleteheader :index 1 :last "X-Seq";
#### deleteheader by index and value
require "editheader";
deleteheader :index 1 :is "X-Twice" "second";
deleteheader :index 2 :contains "X-Seq" "9";
#### deleteheader with comparators
require ["editheader", "comparator-i;ascii-numeric", "relational", "regex"];
deleteheader :value "ge" :comparator "i;ascii-numeric" "X-Seq" "10";
deleteheader :comparator "i;octet" "Subject" "tea party";
deleteheader :regex "Subject" "^You";
#### deleteheader of what must stay
require "editheader";
deleteheader "Received";
deleteheader "Auto-Submitted";
#### a changed subject
require ["editheader", "variables"];
if header :matches "Subject" "*" { set "subject" "${1}"; }
deleteheader "Subject";
addheader "Subject" "[tag] ${subject}";
#### a changed subject, encoded
require ["editheader", "variables"];
if header :matches "Subject" "*Ärger" {
    deleteheader "Subject";
    addheader "Subject" "${1}Freude";
}
#### edited between fileinto and keep
require ["editheader", "fileinto", "copy"];
fileinto :copy "Work";
addheader "X-Edited" "yes";
fileinto :copy "Lists/Sieve";
deleteheader "X-Edited";
keep;
#### edited behind the same mailbox
require ["editheader", "fileinto"];
fileinto "Work";
addheader "X-Edited" "yes";
fileinto "Work";
#### edited and redirected
require ["editheader", "copy"];
addheader "X-Forwarded-For" "me@example.com";
deleteheader "X-Spam-Score";
redirect :copy "%me%.fwd@forward.example";
#### edited and discarded
require "editheader";
addheader "X-Never" "seen";
discard;
#### long values are folded
require "editheader";
addheader "X-Long" "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen";
addheader "X-Word" "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
#### values that are not ASCII
require "editheader";
addheader "X-Text" "Größe → 5 €";
#### values with white space around
require "editheader";
addheader "X-Space" "  both  ";
addheader "X-Nothing" "";
#### the size after editing
require ["editheader", "imap4flags"];
if size :over 280 { addflag "before"; }
addheader "X-Long" "0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789";
if size :over 380 { addflag "after"; }
#### delete all, add one
require "editheader";
deleteheader "To";
deleteheader "Cc";
deleteheader "Bcc";
addheader "To" "nobody@nowhere.example";
#### vacation after editing
require ["editheader", "vacation"];
deleteheader "Subject";
addheader "Subject" "edited";
vacation :handle "edited" "away";
#### RFC 5293 section 6
require ["editheader", "variables"];
deleteheader :index 1 :contains "Delivered-To" "bob@example.com";
if header :matches "X-Hoffman" "*" { deleteheader "X-Hoffman"; }
addheader "X-Sieve-Filtered" ["<kim@job.example.com>"];
