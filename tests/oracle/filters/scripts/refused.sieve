#### unknown command
nonsense;
#### unknown test
if nonsense { keep; }
#### fileinto without require
fileinto "Work";
#### copy without require
require "fileinto";
fileinto :copy "Work";
#### an extension that nobody has
require "vnd.example.nonsense";
#### require behind something
keep;
require "fileinto";
#### no semicolon
keep
#### no semicolon before the next
require "fileinto"
keep;
#### a block that does not end
if true { keep;
#### a block too much
keep; }
#### a string that does not end
require "fileinto";
fileinto "Work;
#### a comment that does not end
keep; /* and so on
#### a text that does not end
require "reject";
reject text:
no end
#### an empty list
require [];
#### a list that does not end
require ["fileinto";
#### a comma too much
require ["fileinto",];
#### header without keys
if header :is "subject" { keep; }
#### header with numbers
if header :is "subject" 5 { keep; }
#### too many arguments
keep "x";
#### fileinto with a list
require "fileinto";
fileinto ["Work", "Lists"];
#### size without a side
if size 100 { keep; }
#### size with both sides
if size :over :under 100 { keep; }
#### size of a string
if size :over "100" { keep; }
#### a number that is too large
if size :over 99999999999999999999 { keep; }
#### a number with an odd unit
if size :over 10X { keep; }
#### two match types
if header :is :contains "subject" "x" { keep; }
#### an unknown tag
if header :nonsense "subject" "x" { keep; }
#### an unknown comparator
if header :comparator "i;nonsense" "subject" "x" { keep; }
#### numeric and contains
require "comparator-i;ascii-numeric";
if header :contains :comparator "i;ascii-numeric" "subject" "1" { keep; }
#### numeric without require
if header :comparator "i;ascii-numeric" "subject" "1" { keep; }
#### relational without require
if header :count "eq" "subject" "1" { keep; }
#### an unknown relation
require "relational";
if header :count "xx" "subject" "1" { keep; }
#### address of a field without addresses
if address "subject" "x" { keep; }
#### address with two parts
if address :localpart :domain "from" "x" { keep; }
#### an envelope part that nobody knows
require "envelope";
if envelope "nonsense" "x" { keep; }
#### else without if
else { keep; }
#### elsif behind else
if true { } else { } elsif true { }
#### if without a test
if { keep; }
#### if without a block
if true keep;
#### allof without tests
if allof () { keep; }
#### not with a list
if not (true) { keep; }
#### anyof without parentheses
if anyof true { keep; }
#### a test as a command
true;
#### a command as a test
if keep { }
#### a block behind keep
keep { }
#### redirect to nobody
redirect "nobody";
#### redirect to two
redirect "a@example.com, b@example.com";
#### redirect to nothing
redirect "";
#### vacation from nobody
require "vacation";
vacation :from "nobody" "x";
#### vacation with days and seconds
require ["vacation", "vacation-seconds"];
vacation :days 3 :seconds 100 "x";
#### vacation without a text
require "vacation";
vacation;
#### vacation in MIME that is none
require "vacation";
vacation :mime "no header";
#### notify by an unknown method
require "enotify";
notify "nonsense:x";
#### notify with an unknown importance
require "enotify";
notify :importance "7" "mailto:a@example.com";
#### set without variables
set "a" "b";
#### set with a bad name
require "variables";
set "1a" "b";
#### set a match variable
require "variables";
set "1" "b";
#### set with two modifiers of one kind
require "variables";
set :upper :lower "a" "b";
#### set in an unknown namespace
require "variables";
set "vnd.a" "b";
#### an unknown namespace in a string
require ["variables", "fileinto"];
fileinto "${vnd.nothing}";
#### require with a variable
require "variables";
if true { require "fileinto"; }
#### index of zero
require "index";
if header :index 0 "subject" "x" { keep; }
#### last without index
require "index";
if header :last "subject" "x" { keep; }
#### a date part that nobody knows
require "date";
if date "date" "nonsense" "x" { keep; }
#### a bad zone
require "date";
if date :zone "UTC" "date" "year" "2024" { keep; }
#### zone and original zone
require "date";
if date :zone "+0000" :originalzone "date" "year" "2024" { keep; }
#### currentdate with the original zone
require "date";
if currentdate :originalzone "year" "2024" { keep; }
#### a bad regular expression
require "regex";
if header :regex "subject" "(" { keep; }
#### a bad regular expression in brackets
require "regex";
if header :regex "subject" "[a" { keep; }
#### addheader with a bad name
require "editheader";
addheader "X Bad" "x";
#### addheader with a bad value
require "editheader";
addheader "X-Bad" "line
X-Other: y";
#### deleteheader of Received
require "editheader";
deleteheader "Received";
#### break outside
require "foreverypart";
break;
#### break by a name that is not there
require "foreverypart";
foreverypart { break :name "x"; }
#### extracttext outside
require ["extracttext", "variables"];
extracttext "x";
#### include without require
include "x";
#### include by a variable
require ["include", "variables"];
set "a" "b";
include "${a}";
#### global without variables
require "include";
global "x";
#### include, personal and global
require "include";
include :personal :global "x";
#### hasflag with three
require "imap4flags";
if hasflag "a" "b" "c" { keep; }
#### a flag variable without variables
require "imap4flags";
addflag "var" "flag";
#### body with two kinds
require "body";
if body :raw :text "x" { keep; }
#### body without keys
require "body";
if body { keep; }
#### spamtest with a list
require "spamtest";
if spamtest ["1", "2"] { keep; }
#### percent without spamtestplus
require ["spamtest"];
if spamtest :percent "1" { keep; }
#### duplicate by two
require "duplicate";
if duplicate :header "X" :uniqueid "y" { keep; }
#### mailboxexists without require
if mailboxexists "x" { keep; }
#### create without require
require "fileinto";
fileinto :create "x";
#### special use that is none
require ["fileinto", "special-use"];
fileinto :specialuse "Junk" "x";
#### encoded characters that are none
require "encoded-character";
if header "subject" "${unicode:110000}" { keep; }
#### an encoded surrogate
require "encoded-character";
if header "subject" "${unicode:D800}" { keep; }
#### fileinto nothing
require "fileinto";
fileinto "";
#### a bracket alone
[
#### a tag alone
:is
#### a string alone
"x";
#### a tag behind the strings
if header "subject" :is "x" { keep; }
#### a tag twice
require "fileinto";
if header :is :is "subject" "x" { keep; }
#### a colon apart
if header : is "subject" "x" { keep; }
#### error without ihave
error "x";
#### reject without a text
require "reject";
reject;
#### stop with an argument
stop 1;
#### nested too deep
if allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(allof(true)))))))))))))))))))))))))))))))))) { keep; }
#### metadata without an entry
require "mboxmetadata";
if metadata "INBOX" "x" { keep; }
#### an annotation that cannot be
require "mboxmetadata";
if metadata "INBOX" "nonsense" "x" { keep; }
#### two errors
nonsense;
if header "subject" { keep; }
fileinto "x";
#### octets that are no UTF-8
require "fileinto";
fileinto "Wérk";
#### control characters
keep;
