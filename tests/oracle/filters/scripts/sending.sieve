#### redirect
redirect "%me%.fwd@forward.example";
#### redirect and keep
redirect "%me%.fwd@forward.example";
keep;
#### redirect copy
require "copy";
redirect :copy "%me%.fwd@forward.example";
#### redirect twice
redirect "%me%.one@forward.example";
redirect "%me%.two@forward.example";
#### redirect to the same twice
redirect "%me%.fwd@forward.example";
redirect "%me%.fwd@forward.example";
#### redirect to the same domain in other letters
redirect "%me%.fwd@forward.example";
redirect "%me%.fwd@FORWARD.example";
#### redirect and fileinto
require ["fileinto", "copy"];
redirect :copy "%me%.fwd@forward.example";
fileinto "Work";
#### redirect and discard
redirect "%me%.fwd@forward.example";
discard;
#### redirect with a name
redirect "The Boss <%me%.boss@forward.example>";
#### redirect in angle brackets
redirect "<%me%.boss@forward.example>";
#### redirect to a quoted local part
redirect "\"%me% space\"@forward.example";
#### redirect large mail only
require ["fileinto"];
if size :over 10K { redirect "%me%.large@forward.example"; } else { fileinto "Work"; }
#### redirect by list
require ["copy"];
if exists "list-id" { redirect :copy "%me%.archive@forward.example"; stop; }
if header :contains "subject" "tea" { redirect "%me%.hatter@forward.example"; }
#### reject
require "reject";
if header :is "x-spam-flag" "YES" { reject "No spam, please."; }
#### reject in lines
require "reject";
if header :contains "subject" "order" { reject text:
We do not take
orders here.
.
; }
#### reject, not ASCII
require "reject";
if header :contains "subject" "tea" { reject "Kein Tee für Müller."; }
#### reject everything
require "reject";
reject "Go away.";
#### reject and fileinto
require ["reject", "fileinto"];
fileinto "Work";
reject "no";
#### reject and redirect
require ["reject"];
reject "no";
redirect "%me%.fwd@forward.example";
#### reject and keep
require ["reject"];
keep;
reject "no";
#### reject and discard
require ["reject"];
discard;
reject "no";
#### reject twice
require ["reject"];
reject "one";
reject "two";
#### reject and vacation
require ["reject", "vacation"];
vacation "away";
reject "no";
#### reject with variables
require ["reject", "variables"];
if header :matches "subject" "*order*" { reject "No ${1}orders${2}"; }
#### vacation
require "vacation";
vacation "I am away.";
#### vacation with a subject
require "vacation";
vacation :subject "Out of office" "I am away.";
#### vacation with everything
require "vacation";
vacation :days 3 :subject "Away" :from "%me%@example.com" :addresses ["second@france.example", "other@example.com"] :handle "all" "Back on Monday.";
#### vacation with a name in from
require "vacation";
vacation :from "Me Myself <%me%@example.com>" "Away.";
#### vacation for other addresses
require "vacation";
vacation :addresses ["sieve-talk@list.example", "xy@odd.example", "second@france.example", "fifth@work.example"] "%me% is away.";
#### vacation in MIME
require "vacation";
vacation :mime text:
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: 8bit

<p>Ich bin <b>weg</b>, schöne Grüße</p>
.
;
#### vacation in MIME, multipart
require "vacation";
vacation :mime :subject "Both" text:
Content-Type: multipart/alternative; boundary=foo

--foo
Content-Type: text/plain

Away.
--foo
Content-Type: text/html

<p>Away.</p>
--foo--
.
;
#### vacation that is not ASCII
require "vacation";
vacation :subject "Abwesend: schöne Grüße" "Ich bin bis übermorgen weg.";
#### vacation in lines
require "vacation";
vacation text:
I am away.
.. a dot
From here on.

Me
.
;
#### vacation and fileinto
require ["vacation", "fileinto"];
vacation "Away.";
fileinto "Work";
#### vacation and discard
require ["vacation"];
vacation "Away.";
discard;
#### vacation and redirect
require ["vacation", "copy"];
redirect :copy "%me%.deputy@forward.example";
vacation "Ask my deputy.";
#### vacation with variables
require ["vacation", "variables"];
if header :matches "subject" "*" { vacation :subject "Away: ${1}" "About ${1}: I am away."; }
#### vacation by seconds
require ["vacation-seconds", "vacation"];
vacation :seconds 1800 "Away for half an hour.";
#### vacation by no seconds
require ["vacation-seconds", "vacation"];
vacation :seconds 0 "Away always.";
#### vacation once for a handle
require ["vacation"];
if header :contains "subject" "again" { vacation :handle "x" "The second text."; }
else { vacation :handle "x" "The first text."; }
#### vacation, another text is another answer
require ["vacation"];
if header :contains "subject" "again" { vacation "The second text."; }
else { vacation "The first text."; }
#### vacation, the same text with another subject
require ["vacation"];
if header :contains "subject" "again" { vacation :subject "two" "Text."; }
else { vacation :subject "one" "Text."; }
#### RFC 5230 section 4
require "vacation";
if header :contains "subject" "tea" {
    vacation :days 23 :addresses ["tjs@example.edu", "ts4z@landru.example.edu"] "I'm away until October 19. If it's an emergency, call 911, I guess.";
} elsif header :contains "subject" "beer" {
    vacation :handle "ran-away" "Gone dancing";
}
#### notify
require "enotify";
notify "mailto:%me%.alert@forward.example";
#### notify with everything
require "enotify";
notify :importance "1" :message "You have got mail" :from "me@example.com" "mailto:%me%.alert@forward.example?subject=ignored&body=Read%20it%21";
#### notify, subject and body in the URI
require "enotify";
notify "mailto:%me%.alert@forward.example?subject=From%20the%20URI&body=Line%20one%0D%0Aline%20two";
#### notify two at once
require "enotify";
notify "mailto:%me%.one@forward.example,%me%.two@forward.example?cc=%me%.three@forward.example";
#### notify twice
require "enotify";
notify :message "one" "mailto:%me%.one@forward.example";
notify :message "two" "mailto:%me%.one@forward.example";
#### notify with variables
require ["enotify", "variables", "fileinto"];
if header :matches "from" "*" { set "who" "${1}"; }
notify :importance "3" :message "Mail from ${who}" "mailto:%me%.alert@forward.example";
fileinto "Work";
#### notify, a message that is not ASCII
require "enotify";
notify :message "Grüße ☺" "mailto:%me%.alert@forward.example";
#### notify and discard
require "enotify";
notify :message "thrown away" "mailto:%me%.alert@forward.example";
discard;
#### notify for some
require ["enotify", "fileinto", "variables", "envelope"];
if header :contains "subject" ["urgent", "order"] { notify :importance "1" :message "Urgent" "mailto:%me%.alert@forward.example"; }
#### notify from somebody else
require ["enotify"];
notify :from "elsewhere@other.example" :message "x" "mailto:%me%.alert@forward.example";
#### notify with further fields
require ["enotify"];
notify :message "x" "mailto:%me%.alert@forward.example?X-Mine=yes&References=%3Ca@b%3E&From=evil@x.example";
#### valid_notify_method
require ["enotify", "imap4flags"];
if valid_notify_method "mailto:a@b.example" { addflag "mailto"; }
if valid_notify_method ["mailto:a@b.example", "xmpp:a@b.example"] { addflag "both"; }
if valid_notify_method "xmpp:a@b.example" { addflag "xmpp"; }
if valid_notify_method "mailto:nobody" { addflag "nobody"; }
if valid_notify_method "mailto:" { addflag "empty"; }
if valid_notify_method "nonsense" { addflag "nonsense"; }
#### notify_method_capability
require ["enotify", "imap4flags", "relational"];
if notify_method_capability "mailto:a@b.example" "online" "maybe" { addflag "maybe"; }
if notify_method_capability "mailto:a@b.example" "ONLINE" "MAYBE" { addflag "nocase"; }
if notify_method_capability "mailto:a@b.example" "online" "yes" { addflag "yes"; }
if notify_method_capability "mailto:a@b.example" "nonsense" "" { addflag "nonsense"; }
if notify_method_capability "xmpp:a@b.example" "online" "maybe" { addflag "xmpp"; }
