"""RFC 6131 (vacation-seconds), rule by rule."""

from __future__ import annotations

from tests.support.sieverules import does, made, refuses, walk

test = walk(
    "6131",
    made("§2 example", ":seconds", "vacation-seconds vacation", 'vacation :addresses ["tjs@example.edu", "ts4z@landru.example.edu"] :seconds 1800 "I am in a meeting";',
         lambda action: action.seconds, 1800),
    made("§2", "zero answers every time", "vacation-seconds vacation", 'vacation :seconds 0 "x";', lambda action: action.seconds, 0),
    made("§2", "more than the most is cut", "vacation-seconds vacation", 'vacation :seconds 99999999 "x";', lambda action: action.seconds, 90 * 86400),
    refuses("§2", "not with :days", "vacation-seconds vacation", 'vacation :days 1 :seconds 5 "x";', "Only one of"),
    refuses("§2", "it is required", "vacation", 'vacation :seconds 5 "x";', "needs require"),
    does("§2", "it brings vacation", "vacation-seconds", 'vacation :seconds 5 "x";', ["vacation coyote@desert.example.org", "keep"]),
)  # fmt: skip
