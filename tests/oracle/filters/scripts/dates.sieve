#### received today or not
require ["date", "relational", "fileinto"];
if date :value "lt" :zone "+0000" "date" "date" "2024-01-10" { fileinto "Work"; }
#### office hours
require ["date", "relational", "fileinto"];
if allof (date :zone "+0100" :value "ge" "date" "hour" "08", date :zone "+0100" :value "lt" "date" "hour" "18",
          date :zone "+0100" :value "ge" "date" "weekday" "1", date :zone "+0100" :value "le" "date" "weekday" "5") {
    fileinto "Work";
}
#### dates of received fields
require ["date", "index", "imap4flags", "relational"];
if date :index 1 :last :originalzone "received" "hour" "17" { addflag "origin"; }
if date :index 2 :originalzone "received" "zone" "+0000" { addflag "hop"; }
if date :index 9 "received" "year" "2024" { addflag "none"; }
if date :value "ge" "received" "year" "2024" { addflag "now"; }
#### currentdate against date
require ["date", "relational", "variables", "imap4flags"];
if date :matches :zone "+0000" "date" "year" "*" { set "year" "${1}"; }
if currentdate :value "gt" "year" "${year}" { addflag "old"; }
#### dates that are none
require ["date", "imap4flags", "relational"];
if date :matches "date" "year" "*" { addflag "some"; }
if date :count "eq" "date" "year" "0" { addflag "none"; }
if date :matches "subject" "year" "*" { addflag "subject"; }
if date :matches "x-nowhere" "year" "*" { addflag "nowhere"; }
#### RFC 5260 section 4
require ["date", "relational", "fileinto"];
if allof (header :is "from" "boss@work.example",
          date :value "ge" :originalzone "date" "hour" "09",
          date :value "lt" :originalzone "date" "hour" "18") { fileinto "Work"; }
if anyof (date :is "received" "weekday" "0", date :is "received" "weekday" "6") { keep; }
