"""RFC 6009 (envelope-dsn, redirect-dsn, envelope-deliverby, redirect-deliverby), rule by rule."""

from __future__ import annotations

from typing import Any

from tests.support.sieverules import is_, made, refuses, walk

DSN = "envelope envelope-dsn redirect-dsn envelope-deliverby redirect-deliverby copy"
PARTS = {
    "notify": ["SUCCESS", "FAILURE"],
    "orcpt": ["rfc822;Bob+x@example.org"],
    "ret": ["HDRS"],
    "envid": ["QQ1"],
    "bymode": ["notify"],
    "bytimerelative": ["120"],
    "bytrace": ["true"],
}


def options(action: Any) -> Any:
    return action.notify, action.ret, action.by_time, action.by_mode, action.by_trace


test = walk(
    "6009",
    is_("§2.1", "notify", DSN, 'envelope "notify" "SUCCESS"', True, envelope=PARTS),
    is_("§2.1 example", "notify: NEVER", DSN, 'envelope "notify" "NEVER"', False, envelope=PARTS),
    is_("§2.1", "orcpt", DSN, 'envelope :localpart "orcpt" "Bob+x"', True, envelope=PARTS),
    is_("§2.1", "ret", DSN, 'envelope "ret" "HDRS"', True, envelope=PARTS),
    is_("§2.1", "envid", DSN, 'envelope :matches "envid" "Q*"', True, envelope=PARTS),
    is_("§2.1", "what is not given does not match", DSN, 'envelope :contains "notify" ""', False),
    refuses("§2.1", "parts are required", "envelope", 'if envelope "ret" "FULL" {}', "no envelope part"),
    made("§3 example", "redirect :notify :ret", DSN, 'redirect :copy :notify "FAILURE" :ret "FULL" "a@example.org";', options, ("FAILURE", "FULL", None, "", False)),
    refuses("§3", "NEVER stands alone", DSN, 'redirect :notify "NEVER,SUCCESS" "a@example.org";', ":notify cannot be"),
    refuses("§3", "RET is FULL or HDRS", DSN, 'redirect :ret "x" "a@example.org";', ":ret cannot be"),
    is_("§4.1", "bymode", DSN, 'envelope "bymode" "notify"', True, envelope=PARTS),
    is_("§4.1", "bytimerelative", DSN, 'envelope "bytimerelative" "120"', True, envelope=PARTS),
    is_("§4.1", "bytrace", DSN, 'envelope "bytrace" "true"', True, envelope=PARTS),
    made("§5 example", ":bytimerelative", DSN, 'redirect :bytimerelative 600 :bymode "notify" :bytrace "a@example.org";', options, ("", "", 600, "NOTIFY", True)),
    made("§5", ":bytimeabsolute", DSN, 'redirect :bytimeabsolute "2024-03-05T15:30:15+01:00" "a@example.org";', options, ("", "", 3600, "RETURN", False)),
    refuses("§5", "one of the two times", DSN, 'redirect :bytimerelative 1 :bytimeabsolute "2024-03-05T15:30:15Z" "a@example.org";', "Only one of"),
    refuses("§5", ":bymode needs a time", DSN, 'redirect :bymode "notify" "a@example.org";', "needs :bytimerelative"),
)  # fmt: skip
