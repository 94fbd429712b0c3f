"""Why two servers may do two things with a script or a message: each class, and the section that decides it.

A class is a narrow predicate: it looks at the script, the message, the question and both answers, so that what is wrong
for another reason stays unexplained. The first class that holds is taken.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from tests.oracle.classes import Explained, first_of
from tests.oracle.filters.compare import body_of, fields_of, plain
from tests.oracle.filters.sides import LOST

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.oracle.filters.compare import Difference


def explain(difference: Difference) -> Explained | None:
    """The class of a difference; None if it is unexplained."""
    return first_of(EXPLAINED, difference)


# ------------------------------------------------------------------------------------------- one question of `matrix`


def _question(d: Difference, letter: str = "") -> str:
    """The test that was answered in two ways, if it is about that letter."""
    return d.field if d.kind in ("test", "values") and letter in ("", d.letter.name) else ""


def _no_numbers(d: Difference) -> bool:
    test = _question(d)
    if d.ours is not True or "i;ascii-numeric" not in test or not re.search(r'"[^"0-9]*"\]?\Z', test):
        return False
    return test.startswith("hasflag :is") or (d.letter.name == "empty fields" and test.startswith("header :is"))


def _order(d: Difference) -> bool:
    test = _question(d, "mailing list")
    return test.startswith("header :value") and test.endswith('"subject" "s"') and "i;octet" not in test


def _delivered_to(d: Difference) -> bool:
    return d.letter.besides and _question(d) == 'exists "delivered-to"' and d.ours is True


def _quoted(d: Difference) -> bool:
    test = _question(d, "odd addresses")
    if d.kind == "values":
        return '"john..doe"' in str(d.theirs) and str(d.theirs).replace('"', "").replace("'", "") == str(
            d.ours
        ).replace('"', "").replace("'", "")
    return bool(re.match("address|envelope", test)) and ("john..doe@" in test or "envelope :value" in test)


def _quoted_inside(d: Difference) -> bool:
    if d.case.name != "match variables inside of blocks" or d.letter.name != "odd addresses":
        return False
    return bool(d.kind == "octets" and d.theirs.replace(b'X-User: "john..doe"', b"X-User: john..doe") == d.ours)


def _anchored(d: Difference) -> bool:
    """Only the field that shows `?` in front of a character of two octets."""
    if d.case.name != "greedy or not" or d.kind != "octets":
        return False
    both = ((d.ours, b"X-9:"), (d.theirs, b"X-8:"))  # and of one that needs the comparator of RFC 5228
    ours, theirs = ([plain(f) for f in fields_of(data) if not f.startswith(name)] for data, name in both)
    return ours == theirs


def _no_mailbox(d: Difference) -> bool:
    """The script fails there, so that nothing of it is done."""
    return d.case.name == "metadata of a mailbox that is not there" and (d.ours, d.theirs) == (["before"], [])


def _superior(d: Difference) -> bool:
    if d.kind != "mailboxes" or not set(d.ours) >= set(d.theirs):
        return False
    return all(any(name.startswith(f"{more}/") for name in d.theirs) for more in set(d.ours) - set(d.theirs))


def _delimiter(d: Difference) -> bool:
    """`Work/`"""
    return d.case.name == "odd names" and d.whole[0]["place"] == ["Work"] and d.whole[1]["place"] == ["INBOX"]


def _no_recipient(d: Difference) -> bool:
    return d.case.name == "valid_notify_method" and set(d.ours) ^ set(d.theirs) == {"empty"}


def _from_another(d: Difference) -> bool:
    """`From` is the one of `:addresses` that the letter was sent to."""
    if d.kind != "vacation" or not d.field.startswith("From, ") or ":from" in d.case.script:
        return False
    return bool(d.theirs) and d.theirs[0][1] in d.case.script.partition(":addresses")[2]


def _no_address(d: Difference) -> bool:
    test = _question(d, "odd addresses")
    return test.startswith("address") and '"cc"' in test and ('"broken@"' in test or ":count" in test)


def _empty_group(d: Difference) -> bool:
    test = _question(d, "attachments")
    return d.ours is False and bool(re.search(r'^address .*"to"', test)) and ":count" not in test


def _empty_body(d: Difference) -> bool:
    return _question(d, "empty fields").startswith("body :raw") and d.ours is True


def _html(d: Difference) -> bool:
    return _question(d, "alternative").startswith('body :text :value "ge"')


def _no_type(d: Difference) -> bool:
    if d.case.name == "foreverypart, counted":
        return d.letter.name == "broken" and d.kind == "octets" and b"[text]" in d.ours and b"[]" in d.theirs
    test = _question(d, "broken")
    return test.startswith("body") and (":count" in test or ":value" in test)


def _date_index(d: Difference) -> bool:
    if d.case.name == "dates of received fields":
        return d.kind == "flags"
    return ":index" in d.field and ("date " in _question(d, "mailing list"))


def _environment(d: Difference) -> bool:
    if d.case.name == "environment":
        return d.kind == "flags" and set(d.ours) ^ set(d.theirs) == {"domain"}
    return bool(re.match(r'environment \S+ ("eq" )?"(host|domain|name|nowhere|version|remote-ip|LOCATION)"', d.field))


def _string_comparator(d: Difference) -> bool:
    test = _question(d)
    return test.startswith("string ") and ":comparator" not in test and ":count" not in test


def _untested(d: Difference) -> bool:
    return bool(re.match("(spam|virus)test.* :count", _question(d)))


def _no_name(d: Difference) -> bool:
    return _question(d) == 'mailboxexists ""' and d.theirs is True


def _no_parameter(d: Difference) -> bool:
    test = _question(d)
    if not test.startswith("header :mime") or ":param" not in test:
        return False
    return d.theirs == ["[||||]"] if d.kind == "values" else d.theirs is True and test.endswith('""')


def _characters(d: Difference) -> bool:
    return d.kind == "values" and ":regex" in d.field and "\ufffd" in str(d.theirs) and "\ufffd" not in str(d.ours)


# ------------------------------------------------------------------------------------------------- scripts by hand


def _text(octets: Any) -> tuple[list[str], bytes] | None:
    """A message with its fields unfolded and decoded."""
    return ([plain(field) for field in fields_of(octets)], body_of(octets)) if isinstance(octets, bytes) else None


def _form(d: Difference) -> bool:
    return d.kind in ("octets", "redirect") and _text(d.ours) is not None and _text(d.ours) == _text(d.theirs)


def _extracted(d: Difference) -> bool:
    """Only fields that the script has added differ, and only because a part of a text ends elsewhere."""
    if not d.case.name.startswith("extracttext"):
        return False
    if d.case.name == "extracttext of HTML":
        return d.kind == "flags" and set(d.ours) ^ set(d.theirs) == {"order"}
    ours, theirs = _text(d.ours), _text(d.theirs)
    if ours is None or theirs is None or ours[1] != theirs[1]:
        return False
    return len(ours[0]) == len(theirs[0]) and all(
        a == b or field.startswith((b"X-Text:", b"X-Length:"))
        for a, b, field in zip(ours[0], theirs[0], fields_of(d.ours), strict=True)
    )


def _second_redirect(d: Difference) -> bool:
    if d.letter.name != "same id again" or "redirect" not in d.case.script:
        return False
    if d.kind == "redirect":
        return d.theirs is None
    if d.kind == "sent":
        return not any(one.startswith("redirect") for one in d.theirs) and bool(d.ours)
    return d.kind in ("place", "flags", "octets") and not d.ours


def _added_id(d: Difference) -> bool:
    if d.kind != "redirect" or not isinstance(d.ours, bytes) or not isinstance(d.theirs, bytes):
        return False
    return re.sub(rb"\AMessage-ID: <dovecot-sieve-.*\r\n", b"", d.theirs) == d.ours


def _people(d: Difference) -> bool:
    if d.kind != "vacation" or not d.field.startswith("To, ") or None in (d.ours, d.theirs):
        return False
    return all(not name for name, _ in d.ours) and [a for _, a in d.ours] == [a for _, a in d.theirs]


def _to_oneself(d: Difference) -> bool:
    if d.letter.name != "tagged recipient" or "vacation" not in d.case.script:
        return False
    return (d.kind == "vacation" and d.ours is None) or (d.kind == "sent" and len(d.ours) < len(d.theirs))


def _empty_subject(d: Difference) -> bool:
    return d.kind == "vacation" and d.field.startswith("Subject") and (d.ours, d.theirs) == ("Automated reply", "Auto:")


def _rejected(d: Difference) -> bool:
    ours, theirs = d.whole
    if not isinstance(ours, dict) or ours["reply"] != "5xx" or theirs["reply"] != "2xx":
        return False
    reports = [one for one in theirs["sent"] if one.startswith("report")]
    if d.kind == "sent":
        return not d.ours and (d.theirs == reports)
    unreported = not d.letter.sender or b"Auto-Submitted: auto" in d.letter.data  # RFC 8098 §2.1
    return (d.kind == "reply" and (bool(reports) or unreported)) or (d.kind == "report" and d.ours is None)


def _kept_and_rejected(d: Difference) -> bool:
    """It reports a refusal besides keeping the message, which RFC 5429 does not allow."""
    ours, theirs = d.whole
    if (
        not isinstance(ours, dict)
        or not theirs["place"]
        or d.case.name not in ("reject and keep", "reject and fileinto")
    ):
        return False
    return (d.kind == "report" and d.ours is None) or (
        d.kind == "sent" and not d.ours and all(one.startswith("report") for one in d.theirs)
    )


def _report(d: Difference) -> bool:
    """Both report; the texts are for people."""
    return (
        d.kind == "report" and d.field.partition(",")[0] in ("From", "text", "types") and None not in (d.ours, d.theirs)
    )


def _lost(d: Difference) -> bool:
    return isinstance(d.whole[1], dict) and d.whole[1].get("reply") == LOST


def _duplicate_twice(d: Difference) -> bool:
    return d.case.name == "duplicate with handles" and d.letter.name == "same id again" and d.kind == "flags"


def _count_of_flags(d: Difference) -> bool:
    return d.case.name == "hasflag with several variables" and set(d.ours) ^ set(d.theirs) == {"three", "four"}


def _flags_inside(d: Difference) -> bool:
    return d.case.name == "include, return" and d.kind == "flags" and set(d.ours) ^ set(d.theirs) == {"after"}


def _notified(*fields: str, also: Callable[[Difference], bool] | None = None) -> Callable[[Difference], bool]:
    """Differences of these fields of a notification that both send."""
    return lambda d: (
        d.kind == "notify"
        and d.field.partition(",")[0] in fields
        and None not in (d.ours, d.theirs)
        and (also is None or also(d))
    )


def _default_subject(d: Difference) -> bool:
    if (d.ours, d.theirs) == ("New message", "Notification: (no subject)"):
        return d.letter.name == "no date"
    if (d.ours, d.theirs) == ("", "Notification:"):
        return d.letter.name == "empty fields"
    return ":message" not in d.case.script and d.theirs == f"Notification: {d.ours}"


def _default_text(d: Difference) -> bool:
    return "body=" not in d.case.script and d.theirs == ["Notification of new message."]


def _notified_twice(d: Difference) -> bool:
    if d.case.name != "notify twice":
        return False
    if d.kind == "sent":
        return len(d.ours) == 2 and d.theirs == d.ours[:1]
    return d.kind == "notify" and (d.ours, d.theirs) == ("two", "one")


# ----------------------------------------------------------------------------------------------------------- refusals


def _taken(*names: str) -> Callable[[Difference], bool]:
    """These scripts are taken by Sora and not by Pigeonhole."""
    return lambda d: d.kind == "put" and d.ours == "taken" and d.case.name in names


def _refused(*names: str) -> Callable[[Difference], bool]:
    """The other way round."""
    return lambda d: d.kind == "put" and d.theirs == "taken" and d.case.name in names


def _place(d: Difference) -> bool:
    """Both refuse it."""
    return d.kind == "put" and "taken" not in (d.ours, d.theirs)


EXPLAINED: Final = (
    Explained(
        "no number", "positive infinity, which is equal to itself", "an empty text is no number", "RFC 4790 §9.1",
        _no_numbers,
    ),
    Explained("order of letters", "as upper case", "as lower case", "RFC 4790 §9.2", _order),
    Explained(
        "Delivered-To with several recipients", "is added", "is not added",
        "RFC 5321 §7.2 (each has a copy of its own)", _delivered_to,
    ),
    Explained("quoted local part", "without the quotes", "with them", "RFC 5322 §3.2.4", _quoted),
    Explained("quoted local part in a variable", "without the quotes", "with them", "RFC 5322 §3.2.4", _quoted_inside),
    Explained("? before characters of several octets", "the whole value must match", "its first octet is passed over",
              "RFC 5228 §2.7.1", _anchored),
    Explained(
        "annotations of a mailbox that is not there", "there are none", "are an error", "RFC 5490 §3.4", _no_mailbox,
    ),
    Explained("superior mailboxes", "are made too", "are names only", "RFC 9051 §6.3.4", _superior),
    Explained("delimiter at the end of a name", "is passed over", "is an error", "RFC 9051 §6.3.4", _delimiter),
    Explained("mailto: without a recipient", "is no method", "is one", "RFC 5436 §2.1", _no_recipient),
    Explained("From of an answer", "the primary address", "the address that the letter was sent to", "RFC 5230 §5.4",
              _from_another),
    Explained(
        "text among addresses that is none", "is compared as a whole", "is not compared", "RFC 5228 §2.7.4",
        _no_address,
    ),
    Explained("empty group", "has no addresses", "its text is compared", "RFC 5228 §5.1, RFC 5322 §3.4", _empty_group),
    Explained("empty body", "an empty text", "nothing", "RFC 5173 §5.1", _empty_body),
    Explained("text of HTML", "begins with the title", "begins with the body", "RFC 5173 §5.3 (left open)", _html),
    Explained("content type that is none", "text/plain", "of no type", "RFC 2045 §5.2", _no_type),
    Explained("index in date", "counts fields", "is passed over", "RFC 5260 §6", _date_index),
    Explained("items of the environment", "ours, in any case", "others", "RFC 5183 §4", _environment),
    Explained("comparator of string", "i;ascii-casemap", "i;octet", "RFC 5228 §2.7.3, RFC 5229 §5", _string_comparator),
    Explained("scores of untested mail", "are not counted", "are counted", "RFC 5235 §2.1", _untested),
    Explained("mailbox without a name", "is not there", "is there", "RFC 5490 §3.1", _no_name),
    Explained("parameter that is not there", "nothing", "an empty text", "RFC 5703 §4.2", _no_parameter),
    Explained("regular expressions", "see characters", "see octets", "RFC 5228 §2.7.2", _characters),
    Explained("a reply that does not come", "replies", "its process dies", "RFC 5321 §4.2", _lost),
    Explained(
        "form of a field", "folded by a space, no space at its ends", "folded by a tab, as given",
        "RFC 5322 §2.2.3, RFC 2047 §2", _form,
    ),
    Explained(
        "extracted text", "counted in characters; up to 64 KiB", "counted in octets; up to 4 KiB",
        "RFC 5703 §7, RFC 5229 §6", _extracted,
    ),
    Explained(
        "second redirect of an id", "redirected", "kept, if nothing else is done with it",
        "RFC 5228 §4.2 (another message)", _second_redirect,
    ),
    Explained("id of redirected mail", "none is added", "is added if there is none", "RFC 5321 §6.4", _added_id),
    Explained("whom vacation answers", "the address", "with the name in From", "RFC 5230 §5.5", _people),
    Explained("vacation to oneself", "no answer", "an answer to a tagged address", "RFC 3834 §2", _to_oneself),
    Explained("answer to no subject", "Automated reply", "Auto:", "RFC 5230 §5.3", _empty_subject),
    Explained(
        "subject of a notification", "that of the message", "with a word before it", "RFC 5436 §2.3",
        _notified("Subject", also=_default_subject),
    ),
    Explained(
        "text of a notification", "from whom and about what", "fixed", "RFC 5436 §2.3",
        _notified("text", also=_default_text),
    ),
    Explained("notifications to one address", "each is sent", "one is sent", "RFC 5435 §3", _notified_twice),
    Explained(
        "notification from somebody else", "from the owner", "as the script says", "RFC 5435 §3.3",
        _notified("From", "sender", also=lambda d: ":from" in d.case.script and "elsewhere" in str(d.theirs)),
    ),
    Explained(
        "further fields of a notification", "those that may be set", "none of its own", "RFC 6068 §3",
        _notified("References", "X-Mine", also=lambda d: d.theirs == "none"),
    ),
    Explained("reject and keep", "an error: the message is kept", "the message is kept, and reported as rejected",
              "RFC 5429 §2.4", _kept_and_rejected),
    Explained("form of a report", "ours", "theirs", "RFC 8098 §3", _report),
    Explained("reject", "in the LMTP reply", "a report to the sender", "RFC 5429 §2.2.1", _rejected),
    Explained(
        "several duplicate tests", "each handle has its own ids", "an id is locked by the first test", "RFC 7352 §3",
        _duplicate_twice,
    ),
    Explained("count of flags", "each once", "each in each variable", "RFC 5232 §4", _count_of_flags),
    Explained(
        "flags of an included script without imap4flags", "as they are then", "as they are at the end", "RFC 5232 §5",
        _flags_inside,
    ),
    Explained(
        "checks when a script is stored", "taken", "refused",
        "RFC 6609 §3.2, RFC 6068 §2, RFC 5228 §5.1, draft-ietf-sieve-regex §6",
        _taken(
            "include, not there", "notify two at once", "received counted with the one of the server", "quoteregex"
        ),
    ),
    Explained(
        "checks of constants", "refused", "taken", "RFC 5228 §2.10.6, RFC 5230 §4.3, RFC 5260 §4.1, RFC 5229 §3",
        _refused("vacation in MIME that is none", "a bad zone", "fileinto nothing", "an unknown namespace in a string"),
    ),
    Explained("where an error is", "where it begins", "where it is noticed", "RFC 5804 §2.6 (for people)", _place),
)  # fmt: skip
"""The classes in the order in which they are tried."""
