#### setflag, addflag, removeflag
require "imap4flags";
setflag "\\Flagged";
addflag ["\\Seen", "one"];
addflag "two three";
removeflag "\\Flagged three";
#### flags of keep
require "imap4flags";
addflag "internal";
keep :flags ["\\Seen", "given"];
#### flags of keep, empty
require "imap4flags";
addflag "internal";
keep :flags "";
#### flags of fileinto
require ["imap4flags", "fileinto"];
setflag "all";
fileinto "Work";
addflag "later";
fileinto :flags "\\Draft" "Lists/Sieve";
keep;
#### flags change between the same mailbox
require ["imap4flags", "fileinto"];
addflag "first";
fileinto "Work";
removeflag "first";
addflag "second";
fileinto "Work";
#### flags of the implicit keep
require ["imap4flags"];
if header :contains "subject" "tea" { setflag ["\\Answered", "$label1"]; }
#### flags in a variable
require ["imap4flags", "variables", "fileinto"];
setflag "mine" ["\\Deleted", "a b"];
addflag "mine" "c";
removeflag "mine" "a";
if hasflag "mine" "b" { fileinto :flags "${mine}" "Work"; }
if hasflag "b" { discard; }
if not hasflag ["mine", "other"] "a" { addflag "no-a"; }
#### hasflag with several variables
require ["imap4flags", "variables", "relational", "comparator-i;ascii-numeric"];
set "x" "one two";
set "y" "two three";
if hasflag :count "eq" :comparator "i;ascii-numeric" ["x", "y"] "3" { addflag "three"; }
if hasflag :count "eq" :comparator "i;ascii-numeric" ["x", "y"] "4" { addflag "four"; }
if hasflag :contains ["x", "y"] "hre" { addflag "contains"; }
if hasflag :matches ["x"] "tw?" { addflag "matches"; }
if hasflag :is ["x", "y"] "ONE" { addflag "nocase"; }
#### flags in any case
require ["imap4flags"];
addflag ["\\SEEN", "\\flagged", "Keyword", "KEYWORD"];
removeflag "keyWORD";
#### flags that are none
require ["imap4flags"];
addflag ["\\Recent", "good", "bad(one", "\\Unknown", "a*b", "ü"];
#### flags with spaces around
require ["imap4flags"];
addflag "  one   two  ";
addflag ["", " "];
#### setflag clears
require ["imap4flags"];
addflag ["a", "b"];
setflag "";
#### stop keeps the flags
require ["imap4flags"];
addflag "kept";
stop;
addflag "never";
#### discard with flags
require ["imap4flags"];
addflag "x";
discard;
#### flags by rules
require ["imap4flags", "fileinto", "body"];
if header :contains "subject" ["tea", "beer"] { addflag "drink"; }
if size :over 5000 { addflag "large"; }
if body :contains "order" { addflag "\\Flagged"; }
if address :domain "from" "example.com" { addflag "\\Seen"; }
if hasflag "drink" { fileinto "Work"; }
#### a keyword for the junk folder
require ["imap4flags", "fileinto"];
if header :is "X-Spam-Flag" "YES" { fileinto :flags ["$Junk", "\\Seen"] "Junk"; stop; }
#### hasflag of the last flags
require ["imap4flags", "fileinto"];
setflag "a";
if hasflag "a" { setflag "b"; }
if hasflag "a" { setflag "c"; }
fileinto :flags "d" "Work";
if hasflag "d" { addflag "e"; }
keep;
#### RFC 5232 section 3
require ["fileinto", "imap4flags", "relational", "variables"];
if size :over 1M { addflag "MyFlags" "Big"; }
if header :is "From" "boss@work.example" { addflag "MyFlags" "\\Flagged"; }
addflag "MyFlags" ["\\Seen", "$MDNRequired"];
removeflag "MyFlags" "$mdnrequired";
fileinto :flags "${MyFlags}" "Work";
