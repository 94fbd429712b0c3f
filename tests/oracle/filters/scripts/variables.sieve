#### set and use
require ["variables", "fileinto"];
set "where" "Work";
fileinto "${where}";
#### a mailbox from the header
require ["variables", "fileinto"];
if header :matches "subject" "[*]*" { set "list" "${1}"; }
if string :is "${list}" "sieve-talk" { fileinto "Lists/Sieve"; }
#### modifiers
require ["variables", "editheader"];
set "a" "juMBlEd lETteRS";
set :length "b" "${a}";
set :lower "c" "${a}";
set :upperfirst "d" "${a}";
set :upperfirst :lower "e" "${a}";
set :quotewildcard "f" "Rock*?\\";
set :lowerfirst :upper "g" "${a}";
set :length :quotewildcard "h" "a*b";
set :upper "i" "größe éà";
set :length "j" "größe éà";
set :length "k" "";
addheader :last "X-B" "${b}";
addheader :last "X-C" "${c}";
addheader :last "X-D" "${d}";
addheader :last "X-E" "${e}";
addheader :last "X-F" "${f}";
addheader :last "X-G" "${g}";
addheader :last "X-H" "${h}";
addheader :last "X-I" "${i}";
addheader :last "X-J" "${j}";
addheader :last "X-K" "[${k}]";
#### encodeurl
require ["variables", "editheader", "enotify"];
set :encodeurl "a" "a b&c=d/é?~-._";
addheader :last "X-A" "${a}";
#### quoteregex
require ["variables", "editheader", "regex"];
set :quoteregex "a" "a.b*c[d](e){f}|g^h$i\\j+k?";
addheader :last "X-A" "${a}";
#### names
require ["variables", "editheader"];
set "Abc_1" "one";
set "_x" "two";
addheader :last "X-A" "${aBC_1} ${_X} [${none}] $${abc_1} ${abc_1}$ ${ abc_1 } ${abc-1} ${0} ${12}";
#### nothing is expanded twice
require ["variables", "editheader"];
set "b" "inner";
set "a" "${b";
set "c" "${a}}";
set "d" "$";
set "e" "${d}{b}";
addheader :last "X-C" "${c}";
addheader :last "X-E" "${e}";
#### match variables stay until the next match
require ["variables", "editheader", "fileinto"];
if header :matches "subject" "*party*" { set "x" "${1}|${2}"; }
if header :matches "subject" "*nowhere*" { set "y" "never"; }
set "z" "${1}";
if header :contains "subject" "e" { set "w" "${1}"; }
addheader :last "X-X" "[${x}]";
addheader :last "X-Z" "[${z}]";
addheader :last "X-W" "[${w}]";
#### match variables in a list of tests
require ["variables", "editheader"];
if anyof (header :matches "subject" "Re: *", header :matches "from" "*@*") { set "a" "${0}|${1}|${2}"; }
if allof (header :matches "from" "*@*", header :matches "subject" "* *") { set "b" "${1}|${2}"; }
addheader :last "X-A" "${a}";
addheader :last "X-B" "${b}";
#### match variables inside of blocks
require ["variables", "editheader"];
if address :matches "from" "*@*" {
    set "user" "${1}";
    if address :matches :domain "from" "*.*" { set "top" "${2}"; }
    set "after" "${1}";
}
addheader :last "X-User" "${user}";
addheader :last "X-Top" "${top}";
addheader :last "X-After" "${after}";
#### string with lists
require ["variables", "imap4flags", "relational", "comparator-i;ascii-numeric"];
set "state" "${state} pending";
if string :matches " ${state} " "* pending *" { addflag "pending"; }
if string :count "eq" :comparator "i;ascii-numeric" ["a", "", "${state}"] "2" { addflag "two"; }
if string :is ["a", "b"] ["b", "c"] { addflag "b"; }
#### wildcards made by variables
require ["variables", "imap4flags"];
set "pattern" "*tea*";
if header :matches "subject" "${pattern}" { addflag "matched"; }
set :quotewildcard "plain" "*tea*";
if header :matches "subject" "${plain}" { addflag "never"; }
#### a header name in a variable
require ["variables", "imap4flags"];
set "name" "subject";
if header :contains "${name}" "tea" { addflag "named"; }
if exists ["${name}", "from"] { addflag "there"; }
#### a redirect to an address made of variables
require ["variables", "copy"];
if address :matches "from" "*@*.example" { redirect :copy "%me%.${2}@forward.example"; }
#### long values
require ["variables", "editheader"];
set "a" "0123456789";
set "b" "${a}${a}${a}${a}${a}${a}${a}${a}${a}${a}";
set "c" "${b}${b}${b}";
set :length "n" "${c}";
addheader :last "X-N" "${n}";
#### RFC 5229 section 3.2
require ["fileinto", "variables"];
if header :matches "List-ID" "*<*@*" { fileinto "INBOX"; stop; }
if header :matches "Subject" "[*] *" { fileinto "Work"; }
#### greedy or not
require ["variables", "editheader"];
if string :matches "aXbXcX" "*X*" { addheader :last "X-1" "[${1}][${2}]"; }
if string :matches "aXbXcX" "*X*X" { addheader :last "X-2" "[${1}][${2}]"; }
if string :matches "aXbXcX" "*X?X*" { addheader :last "X-3" "[${1}][${2}][${3}]"; }
if string :matches "abc" "***" { addheader :last "X-4" "[${1}][${2}][${3}]"; }
if string :matches "abc" "*?*" { addheader :last "X-5" "[${1}][${2}][${3}]"; }
if string :matches "a*c" "a\\*?" { addheader :last "X-6" "[${0}][${1}]"; }
if string :matches "" "*" { addheader :last "X-7" "[${0}][${1}]"; }
if string :matches "äöü" "?ö*" { addheader :last "X-8" "[${1}][${2}]"; }
if string :matches "AbC" "a?c" { addheader :last "X-9" "[${0}][${1}]"; }
#### a match that fails in the middle
require ["variables", "editheader"];
if string :matches "one two" "* *" { set "keep" "yes"; }
if string :matches ["xyz", "b d"] ["a*", "*z", "* d"] { addheader :last "X-1" "[${0}][${1}]"; }
if not string :matches "nothing" "*q*" { addheader :last "X-2" "[${0}][${1}]"; }
if string :is "${1}" "xy" { addheader :last "X-3" "still"; }
