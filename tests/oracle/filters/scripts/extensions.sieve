#### duplicate
require ["duplicate", "fileinto"];
if duplicate { fileinto "Lists/Sieve"; }
#### duplicate, discarded
require ["duplicate"];
if duplicate { discard; }
#### duplicate by header
require ["duplicate", "fileinto"];
if duplicate :header "X-Event" { fileinto "Work"; }
#### duplicate by id
require ["duplicate", "fileinto", "variables"];
if address :matches :domain "from" "*" { set "domain" "${1}"; }
if duplicate :uniqueid "${domain}" { fileinto "Work"; }
#### duplicate with handles
require ["duplicate", "imap4flags"];
if duplicate :handle "one" { addflag "one"; }
if duplicate :handle "two" { addflag "two"; }
if duplicate :handle "one" { addflag "one-again"; }
#### duplicate with a time
require ["duplicate", "fileinto"];
if duplicate :seconds 3600 :last { fileinto "Work"; }
#### duplicate by an event of some
require ["duplicate", "fileinto", "variables"];
if header :matches "x-event" "*" {
    if duplicate :handle "event" :uniqueid "${1}" { fileinto "Work"; stop; }
}
#### duplicate of a header that is not there
require ["duplicate", "fileinto"];
if duplicate :header "X-Nowhere" { fileinto "Work"; }
#### duplicate of nothing
require ["duplicate", "fileinto"];
if duplicate :uniqueid "" { fileinto "Work"; }
#### duplicate, the script fails afterwards
require ["duplicate", "fileinto", "ihave"];
if duplicate { fileinto "Lists/Sieve"; } elsif header :contains "subject" "tea" { error "on purpose"; }
#### include/first
require ["fileinto"];
if header :contains "subject" "tea" { fileinto "Work"; }
#### include
require "include";
include "first";
#### include and keep/second
keep;
#### include and keep
require ["include", "fileinto"];
include :personal "second";
fileinto "Work";
#### include, global
require ["include"];
include :global "shared";
#### include, return/third
require ["include", "fileinto"];
if header :contains "subject" "tea" { return; }
fileinto "Work";
#### include, return
require ["include", "imap4flags"];
include "third";
addflag "after";
#### return outside
require ["include", "fileinto"];
return;
fileinto "Work";
#### include, stop/fourth
require ["imap4flags"];
addflag "before";
stop;
#### include, stop
require ["include", "imap4flags"];
include "fourth";
addflag "after";
#### include, once/fifth
require ["imap4flags", "variables", "include"];
global "count";
set "count" "${count}x";
#### include, once
require ["include", "variables", "editheader"];
global ["count"];
include :once "fifth";
include :once "fifth";
include "fifth";
include :once "fifth";
addheader "X-Count" "${count}";
#### include, optional
require ["include", "imap4flags"];
include :optional "nowhere";
addflag "after";
#### include, not there
require ["include", "imap4flags"];
addflag "before";
include "nowhere";
addflag "after";
#### include, variables of its own/sixth
require ["variables", "include"];
set "mine" "inner";
set "global.shared" "from inside";
#### include, variables of its own
require ["include", "variables", "editheader"];
set "mine" "outer";
include "sixth";
addheader "X-Mine" "${mine}";
addheader "X-Shared" "${global.shared}";
#### include, global variables of the site
require ["include", "variables", "editheader"];
global "found";
include :global "site";
addheader "X-Found" "${found}";
#### include, match variables/seventh
require ["variables"];
if header :matches "from" "*@*" { stop; }
#### include, match variables
require ["include", "variables", "editheader"];
if header :matches "subject" "*" { set "a" "${1}"; }
addheader "X-A" "${a}";
include "seventh";
#### include, chain/eighth
require ["fileinto", "imap4flags"];
addflag "eighth";
#### include, chain/ninth
require ["include"];
include "eighth";
#### include, chain
require ["include", "imap4flags"];
include "ninth";
include "eighth";
#### ihave
require ["ihave", "imap4flags"];
if ihave "fileinto" { addflag "fileinto"; fileinto "Work"; } else { addflag "no"; }
#### ihave what nobody has
require ["ihave", "imap4flags"];
if ihave "vnd.example.nonsense" { nonsense "x"; } else { addflag "no"; }
if ihave ["fileinto", "vnd.example.nonsense"] { addflag "both"; }
if not ihave "vnd.example.nonsense" { addflag "not"; }
#### ihave, nested
require ["ihave", "imap4flags"];
if allof (ihave "envelope", envelope :matches "from" "*example") { addflag "envelope"; }
if anyof (ihave "vnd.example.nonsense", true) { addflag "any"; }
#### error
require ["ihave", "fileinto"];
fileinto "Work";
if header :contains "subject" "tea" { error "Something is wrong."; }
#### environment
require ["environment", "imap4flags"];
if environment :is "location" "MS" { addflag "ms"; }
if environment :contains "domain" "example" { addflag "domain"; }
if environment "phase" "during" { addflag "during"; }
#### spam
require ["spamtest", "relational", "comparator-i;ascii-numeric", "fileinto"];
if spamtest :value "eq" :comparator "i;ascii-numeric" "0" { fileinto "Lists/Sieve"; }
elsif spamtest :value "ge" :comparator "i;ascii-numeric" "6" { fileinto "Junk"; }
#### spam in percent
require ["spamtestplus", "relational", "comparator-i;ascii-numeric", "fileinto"];
if spamtest :value "eq" :comparator "i;ascii-numeric" "0" { fileinto "Lists/Sieve"; }
elsif spamtest :percent :value "gt" :comparator "i;ascii-numeric" "70" { fileinto "Junk"; }
#### virus
require ["virustest", "relational", "comparator-i;ascii-numeric", "fileinto"];
if virustest :value "eq" :comparator "i;ascii-numeric" "0" { fileinto "Lists/Sieve"; }
if virustest :value "ge" :comparator "i;ascii-numeric" "4" { discard; }
#### body
require ["body", "fileinto"];
if body :contains ["tea at four", "walrus"] { fileinto "Work"; }
#### body raw
require ["body", "fileinto"];
if body :raw :contains "--b=1" { fileinto "Work"; }
#### body content
require ["body", "fileinto"];
if body :content ["text/plain", "text/html"] :contains ["résumé", "Grüße"] { fileinto "Work"; }
#### body matches
require ["body", "variables", "editheader"];
if header :matches "subject" "* *" { set "before" "${1}"; }
if body :matches "*tea*" { set "after" "${1}"; }
addheader "X-Before" "${before}";
addheader "X-After" "${after}";
#### subaddress
require ["envelope", "subaddress", "fileinto", "variables", "mailbox"];
if envelope :detail :matches "to" "*" { set "detail" "${1}"; }
if string :is "${detail}" "talk" { fileinto "Lists/Sieve"; }
elsif envelope :detail :contains "to" "note" { fileinto "Work"; }
#### subaddress of headers
require ["subaddress", "imap4flags"];
if address :detail "from" "work" { addflag "work"; }
if address :user "from" "Bob.Builder" { addflag "user"; }
if address :detail :matches ["from", "to", "resent-to", "resent-from"] "*" { addflag "some"; }
if address :detail "resent-to" "tag+more" { addflag "more"; }
if address :detail "resent-from" "leading" { addflag "leading"; }
#### foreverypart
require ["foreverypart", "mime", "imap4flags"];
foreverypart {
    if header :mime :subtype "content-type" "html" { addflag "html"; }
    if header :mime :type "content-type" "image" { addflag "image"; }
    if header :mime :param "filename" :matches "content-disposition" "*.exe" { addflag "exe"; }
}
#### foreverypart, counted
require ["foreverypart", "mime", "variables", "editheader"];
set "parts" "";
foreverypart {
    if header :mime :contenttype :matches "content-type" "*" { set "parts" "${parts}[${1}]"; } else { set "parts" "${parts}[none]"; }
}
addheader "X-Parts" "${parts}";
#### foreverypart, nested
require ["foreverypart", "mime", "variables", "editheader"];
foreverypart {
    set "depth" "${depth}+";
    foreverypart { set "depth" "${depth}-"; }
}
addheader "X-Depth" "${depth}";
#### foreverypart, break
require ["foreverypart", "mime", "variables", "editheader", "imap4flags"];
foreverypart {
    if header :mime :contenttype "content-type" "text/plain" { addflag "plain"; break; }
    addflag "before";
}
#### foreverypart, break by name
require ["foreverypart", "mime", "imap4flags"];
foreverypart :name "outer" {
    foreverypart :name "inner" {
        if header :mime :type "content-type" "text" { break :name "outer"; }
        addflag "inner";
    }
    addflag "outer";
}
#### extracttext
require ["foreverypart", "mime", "extracttext", "variables", "editheader"];
foreverypart {
    if header :mime :contenttype "content-type" "text/plain" {
        extracttext :first 30 "text";
        break;
    }
}
addheader "X-Text" "${text}";
#### extracttext with modifiers
require ["foreverypart", "mime", "extracttext", "variables", "editheader"];
foreverypart {
    if header :mime :type "content-type" "text" {
        extracttext :upper :first 10 "text";
        extracttext :length "length";
        break;
    }
}
addheader "X-Text" "[${text}]";
addheader "X-Length" "[${length}]";
#### extracttext of HTML
require ["foreverypart", "mime", "extracttext", "variables", "imap4flags"];
foreverypart {
    if header :mime :subtype "content-type" "html" { extracttext "text"; }
}
if string :contains "${text}" "order" { addflag "order"; }
if string :contains "${text}" "<b>" { addflag "tags"; }
if string :contains "${text}" "crimson" { addflag "style"; }
if string :contains "${text}" "& paid" { addflag "entity"; }
#### RFC 5703 section 4
require ["mime", "fileinto"];
if header :mime :type "Content-Type" "image" { fileinto "Work"; }
if header :mime :anychild :contenttype "Content-Type" "text/html" { fileinto "Lists/Sieve"; }
#### relational
require ["relational", "comparator-i;ascii-numeric", "fileinto"];
if header :value "ge" :comparator "i;ascii-numeric" ["X-Priority", "X-Seq"] ["10"] { fileinto "Work"; }
if address :count "gt" :comparator "i;ascii-numeric" ["to", "cc"] ["3"] { fileinto "Lists/Sieve"; }
#### RFC 5231 section 7
require ["relational", "comparator-i;ascii-numeric", "fileinto"];
if header :value "lt" :comparator "i;ascii-numeric" ["x-priority"] ["3"] { fileinto "Work"; }
elsif address :count "gt" :comparator "i;ascii-numeric" ["to"] ["5"] { fileinto "Junk"; }
elsif not header :count "eq" :comparator "i;ascii-numeric" ["received"] ["1"] { fileinto "Lists/Sieve"; }
#### regex
require ["regex", "variables", "editheader"];
if header :regex "subject" "^(Re: )*(.*)$" { addheader "X-Subject" "${2}"; }
if header :regex :comparator "i;octet" "subject" "[A-Z][a-z]+" { addheader "X-Word" "${0}"; }
#### encoded characters
require ["encoded-character", "fileinto"];
if header :contains "subject" ["${hex:C3 BC}", "${unicode:c4}"] { fileinto "Work"; }
if header :contains "subject" "${hex:24 24 24}" { fileinto "Lists/Sieve"; }
#### everything together
require ["fileinto", "copy", "imap4flags", "variables", "relational", "comparator-i;ascii-numeric", "body", "editheader", "mailbox", "date"];
if header :matches "subject" "*" { set "subject" "${1}"; }
if address :matches "from" "*@*" { set "domain" "${2}"; }
if header :count "ge" :comparator "i;ascii-numeric" ["to", "cc"] "2" { addflag "many"; }
if body :contains "http" { addflag "link"; deleteheader "Subject"; addheader "Subject" "[link] ${subject}"; }
if string :matches :comparator "i;octet" "${domain}" "*.example" { fileinto :create :copy "By domain/${domain}"; }
if date :value "ge" :zone "+0000" "date" "day" "15" { fileinto :copy "Work"; }
if size :over 10K { discard; }
