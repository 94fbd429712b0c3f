"""Why two servers may answer in two ways: each class of differences, and the RFC section that decides it.

A class is a narrow predicate: it looks at the message, the question and both answers, so that an answer that is wrong
for another reason stays unexplained. The first class that holds is taken.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sora._native.mimescan import LEAF, MESSAGE, MULTIPART, TEXT
from sora.mime.digest import searchable
from sora.mime.envelope import encoding
from sora.mime.message import Message, parse
from sora.mime.text import decode_transfer
from tests.oracle.classes import Explained, first_of

if TYPE_CHECKING:
    from sora._native.mimescan import Part
    from tests.oracle.compare import Difference


def explain(difference: Difference) -> Explained | None:
    """The class of a difference; None if it is unexplained."""
    return first_of(EXPLAINED, difference)


# ------------------------------------------------------------------------------------------------------------- grammars

_TOKEN: Final = rb"[!#$%&'*+.0-9A-Z^_`a-z{|}~-]+"
_QUOTED: Final = rb'"(?:[^"\\\r\n]|\\.)*"'
_C: Final = rb"(?:[ \t]|\([^()\\]*\))*+"
_PARAMETERS: Final = rb"(?:" + _C + rb";" + _C + _TOKEN + _C + rb"=" + _C + rb"(?:" + _TOKEN + rb"|" + _QUOTED + rb"))*"
CONTENT_TYPE: Final = re.compile(_C + _TOKEN + _C + rb"/" + _C + _TOKEN + _PARAMETERS + _C)
"""RFC 2045 §5.1."""
DISPOSITION: Final = re.compile(_C + _TOKEN + _PARAMETERS + _C)
"""RFC 2183 §2."""
ENCODING: Final = re.compile(_C + _TOKEN + _C)
"""RFC 2045 §6.1."""
_ATOM: Final = rb"[!#$%&'*+/=?0-9A-Z^_`a-z{|}~\x80-\xff-]++"
_DOT_ATOM: Final = _ATOM + rb"(?:\." + _ATOM + rb")*"
_DOMAIN: Final = rb"(?:" + _DOT_ATOM + rb"|\[[^\[\]\\]*\])"
_ADDR_SPEC: Final = rb"(?:" + _DOT_ATOM + rb"|" + _QUOTED + rb")@" + _DOMAIN
_PHRASE: Final = rb"(?:(?:" + _ATOM + rb"|" + _QUOTED + rb"|\.)" + _C + rb")+"
_ROUTE: Final = rb"(?:@" + _DOMAIN + rb"(?:,@" + _DOMAIN + rb")*:)?"
_MAILBOX: Final = rb"(?:(?:" + _PHRASE + rb")?<" + _ROUTE + _ADDR_SPEC + rb">|" + _ADDR_SPEC + rb")"
_MAILBOXES: Final = _MAILBOX + rb"(?:" + _C + rb"," + _C + _MAILBOX + rb")*"
_GROUP: Final = _PHRASE + rb":" + _C + rb"(?:" + _MAILBOXES + rb")?" + _C + rb";"
_ADDRESS: Final = rb"(?:" + _MAILBOX + rb"|" + _GROUP + rb")"
ADDRESSES: Final = re.compile(_C + _ADDRESS + rb"(?:" + _C + rb"," + _C + _ADDRESS + rb")*" + _C)
"""RFC 5322 §3.4, with routes and dots in phrases (§4.4) and UTF-8 (RFC 6532)."""
DATE: Final = re.compile(
    rb"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),)?\s*(?:0?[1-9]|[12]\d|3[01])\s+(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\s+\d{2,4}"
    rb"\s+(?:[01]\d|2[0-3]):[0-5]\d(?::[0-6]\d)?\s+(?:[+-]\d{4}|[A-Z]{1,3})" + _C,
    re.IGNORECASE,
)
"""RFC 5322 §3.3 and §4.3."""


# --------------------------------------------------------------------------------------------------- what it is about

_NUMBERS: Final = re.compile(r"[\d.]+")
_parsed = cache(parse)


def _message(difference: Difference) -> Message:
    """The message, taken apart once for all the differences it has."""
    return _parsed(difference.sample.data)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(".") if number)


def _section_path(difference: Difference) -> tuple[int, ...]:
    """Part numbers of `BODY.PEEK[1.2.MIME]<3.20>`."""
    match = _NUMBERS.match(difference.field.partition("[")[2])
    return _numbers(match[0]) if match else ()


def _section_part(difference: Difference) -> Part | None:
    path = _section_path(difference)
    return _message(difference).part(path) if path else None


def _structure_part(difference: Difference) -> tuple[Part | None, str]:
    """The part that a difference of structures is about, and the name of what differs."""
    label, _, name = difference.field.rpartition(":")
    if not _is_structure(difference):
        return None, name
    message = _message(difference)
    if difference.kind == "ENVELOPE" or label == "0":
        return message.root, name
    part = message.part(_numbers(label.removesuffix(".TEXT")))
    if part is not None and part.kind == MESSAGE and (label.endswith(".TEXT") or name in ADDRESS_FIELDS | TEXT_FIELDS):
        part = part.children[0]
    return part, name


ADDRESS_FIELDS: Final = frozenset({"from", "sender", "reply-to", "to", "cc", "bcc"})
TEXT_FIELDS: Final = frozenset({"date", "subject", "in-reply-to", "message-id"})


def _is_structure(difference: Difference) -> bool:
    return difference.kind in ("BODY", "BODYSTRUCTURE", "ENVELOPE")


# ----------------------------------------------------------------------------------------------------------- predicates


def _line_ends(d: Difference) -> bool:
    """Nothing but line ends, or numbers and pieces that follow from them."""
    if d.kind == "SEARCH" or not re.search(rb"(?<!\r)\n|\r\r\n|\r\Z", d.sample.data):
        return False
    if not isinstance(d.ours, bytes) or not isinstance(d.theirs, bytes):
        return False
    return _network(d.ours) == _network(d.theirs) or _trimmed(d) or _is_count(d) or "<" in d.field


def _network(data: bytes) -> bytes:
    """With CRLF, and without a CR that has lost its LF to a boundary."""
    return re.sub(rb"\r*\n", b"\r\n", data.rstrip(b"\r"))


def _trimmed(d: Difference) -> bool:
    return d.kind.startswith("BINARY") and d.ours.rstrip(b"\r\n") == d.theirs.rstrip(b"\r\n")


def _is_count(d: Difference) -> bool:
    return "SIZE" in d.kind or (d.kind in ("BODY", "BODYSTRUCTURE") and d.field.endswith((":octets", ":lines")))


def _no_blank_line(d: Difference) -> bool:
    """The blank line is what the other has more, and the header has none."""
    if not d.kind.startswith("BODY[") or "HEADER.FIELDS" not in d.kind or not isinstance(d.ours, bytes):
        return False
    part = _section_part(d) if d.kind.startswith("BODY[n") else _message(d).root
    if part is not None and part.kind == MESSAGE and d.kind.startswith("BODY[n"):
        part = part.children[0]
    return (
        part is not None
        and part.fields_end == part.header_end
        and re.sub(rb"\r?\n\Z", b"", d.theirs) == re.sub(rb"\r?\n\Z", b"", d.ours + b"\r\n")
    )


def _absent_part(d: Difference) -> bool:
    return d.ours is None and d.theirs == b"" and _section_part(d) is None


def _leaf_child(d: Difference) -> bool:
    """`BODY[2.1]` where 2 is no multipart and no message."""
    if d.kind != "BODY[n]" or d.ours is not None:
        return False
    path = _section_path(d)
    leaf = _message(d).part(path[:-1]) if path[-1] == 1 else None
    return leaf is not None and leaf.kind in (TEXT, LEAF) and _message(d).part(path) is None


def _binary_composite(d: Difference) -> bool:
    part = _section_part(d)
    return d.kind.startswith("BINARY") and part is not None and part.kind in (MULTIPART, MESSAGE)


def _binary_size(d: Difference) -> bool:
    """Ours is the number of octets that BINARY gives; that those are right is asked by itself."""
    part, span = _section_part(d), _message(d).section(_section_path(d))
    if d.kind != "BINARY.SIZE[n]" or part is None or span is None or not isinstance(d.ours, bytes):
        return False
    return int(d.ours) == len(decode_transfer(d.sample.data[slice(*span)], encoding(part)))


def _inner_multipart_end(d: Difference) -> bool:
    """Of a multipart or message inside a multipart: the line end in front of the outer boundary."""
    part = _section_part(d) if d.kind.startswith("BODY[n") else _structure_part(d)[0] if _is_count(d) else None
    if part is None or part.kind not in (MULTIPART, MESSAGE):
        return False
    if _is_count(d):
        line_end = re.match(rb"\r?\n(?=--)", d.sample.data[part.body_end :])
        more = int(d.theirs) - int(d.ours)
        return line_end is not None and more == (1 if d.field.endswith("lines") else len(line_end[0]))
    return _network(d.theirs) == _network(d.ours) + b"\r\n"


def _binary_broken(d: Difference) -> bool:
    return d.kind.startswith("BINARY") and d.theirs in ("NO", "BYE") and isinstance(d.ours, bytes)


def _outside(d: Difference, field: bytes, names: frozenset[str], grammar: re.Pattern[bytes]) -> bool:
    part, name = _structure_part(d)
    if not _is_structure(d) or part is None or name not in names:
        return False
    value = part.first(field)
    return value is not None and grammar.fullmatch(value.rstrip()) is None


def _bad_type(d: Difference) -> bool:
    names = frozenset({"type", "subtype", "params", "lines"})
    return d.kind in ("BODY", "BODYSTRUCTURE") and _outside(d, b"content-type", names, CONTENT_TYPE)


def _bad_disposition(d: Difference) -> bool:
    return _outside(d, b"content-disposition", frozenset({"disposition"}), DISPOSITION)


def _bad_encoding(d: Difference) -> bool:
    return _outside(d, b"content-transfer-encoding", frozenset({"encoding"}), ENCODING)


def _parameter_lists(d: Difference) -> tuple[list[Any], list[Any]] | None:
    name = d.field.rpartition(":")[2]
    if name == "disposition" and d.ours and d.theirs and d.ours[0] == d.theirs[0]:
        return d.ours[1] or [], d.theirs[1] or []
    if name == "params" and isinstance(d.ours, list) and isinstance(d.theirs, list):
        return d.ours, d.theirs
    return None


def _parameter_order(d: Difference) -> bool:
    lists = _parameter_lists(d) if _is_structure(d) else None
    return lists is not None and sorted(lists[0]) == sorted(lists[1])


def _parameter_pieces(d: Difference) -> bool:
    """The same, once the pieces are put together."""
    lists = _parameter_lists(d) if _is_structure(d) else None
    return lists is not None and any(b"*" in name for name, _ in lists[0]) and _joined(lists[0]) == _joined(lists[1])


def _joined(parameters: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    plain = {name: value for name, value in parameters if b"*" not in name}
    pieces: dict[bytes, list[tuple[bytes, bytes]]] = {}
    for name, value in parameters:
        base, star, number = name.partition(b"*")
        if star:
            pieces.setdefault(base, []).append((number, value))
    for base, found in pieces.items():
        key = base + b"*" if base in plain else base
        plain[key] = b"".join(value for _, value in sorted(found)).lstrip(b"'")
    return plain


def _white_space(d: Difference) -> bool:
    """Runs of white space, in a message with folded lines or one that ends in white space."""
    folded = re.search(rb"\n[ \t]|[ \t]\Z", d.sample.data) is not None
    return _is_structure(d) and folded and _spaced(d.ours) == _spaced(d.theirs)


def _white_space_runs(d: Difference) -> bool:
    """A subject with a tab, two spaces or a space at its end, which stands in our answer as it was sent."""
    value = _message(d).root.last(b"subject") or b""
    if b" ".join(value.split()) == value:
        return False
    if d.kind == "ENVELOPE":
        return d.field == "subject" and d.ours == value and _spaced(d.ours) == _spaced(d.theirs)
    match = re.fullmatch(r'SEARCH SUBJECT "([^"]*)"', _key(d))
    return match is not None and (match[1].upper().encode() in value.upper()) is d.ours


def _spaced(value: Any) -> Any:
    if isinstance(value, bytes):
        return b" ".join(value.split())
    return [_spaced(item) for item in value] if isinstance(value, (list, tuple)) else value


def _addresses(d: Difference) -> list[bytes] | None:
    """Values of the field that an ENVELOPE's addresses come from."""
    part, name = _structure_part(d)
    if not _is_structure(d) or name not in ADDRESS_FIELDS or part is None:
        return None
    return part.every(name.encode()) or (part.every(b"from") if name in ("sender", "reply-to") else [])


def _bad_addresses(d: Difference) -> bool:
    values = _addresses(d)
    return values is not None and not all(map(_is_address_list, values))


def _lone_cr(d: Difference) -> bool:
    if d.kind == "SEARCH" and "BODY" not in d.field:
        return False
    return re.search(rb"\r(?!\n)", d.sample.data.partition(b"\r\n\r\n")[0]) is not None


def _boundary_in_header(d: Difference) -> bool:
    """A boundary line right behind another: the part between has neither header nor body."""
    return d.kind.startswith("BODY[n") and re.search(rb"(?m)^(--[^\r\n]+)\r?\n\1", d.sample.data) is not None


def _boundary_at_end(d: Difference) -> bool:
    """The part that a boundary line opens with which the message ends."""
    part = _structure_part(d)[0] if _is_structure(d) else _section_part(d) if "[n" in d.kind else None
    at_end = part is not None and part.header_start == len(d.sample.data)
    return at_end and part is not _message(d).root and d.theirs in ("absent", None)


# --------------------------------------------------------------------------------------------------------------- SEARCH


def _key(d: Difference) -> str:
    return d.field if d.kind == "SEARCH" else ""


def _dates(d: Difference) -> list[bytes]:
    return _message(d).root.every(b"date")


def _no_date(d: Difference) -> bool:
    return "SENT" in _key(d) and not any(value.strip() for value in _dates(d))


def _bad_date(d: Difference) -> bool:
    return "SENT" in _key(d) and any(DATE.fullmatch(value.strip()) is None for value in _dates(d))


def _search_no_field(d: Difference) -> bool:
    """The text is in a line of the header that has no colon."""
    match = re.fullmatch(r'SEARCH TEXT "([^"]*)"', _key(d))
    lines = d.sample.data.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
    text = match[1].lower().encode() if match is not None else b""
    return (
        bool(text) and any(text in line and b":" not in line for line in lines) and (d.ours, d.theirs) == (False, True)
    )


def _search_address(d: Difference) -> bool:
    """The field has the text, or has it not, as Sora says."""
    match = re.fullmatch(r'SEARCH (FROM|TO|CC|BCC) "?([^"]*)"?', _key(d))
    if match is None:
        return False
    values = b"\n".join(_message(d).root.every(match[1].lower().encode())).lower()
    return (match[2].lower().encode() in values) is d.ours


_TEXT_KEY: Final = re.compile(r'(?:BODY|TEXT) (?:"([^"]*)"|\{\d+\+\}\r\n(\w+)|([^\s()"{]+))')


def _body_words(d: Difference) -> list[str]:
    """What is looked for in bodies, in upper case."""
    return ["".join(found).upper() for found in _TEXT_KEY.findall(_key(d))]


def _combined(d: Difference) -> bool:
    """Of several keys, or negated: either answer may be the one that such a text gives."""
    return re.search(r"\b(?:NOT|OR)\b", _key(d)) is not None


def _search_markup(d: Difference) -> bool:
    """A text that stands within a tag, a comment or a style sheet of a part in HTML, and nowhere else."""
    if b"html" not in d.sample.data.lower() or (d.ours and not _combined(d)):
        return False
    return any(word not in searchable(d.sample.data)[1] for word in _body_words(d))


def _search_inner(d: Difference) -> bool:
    """A text in the body that stands in a message inside it, or in a report."""
    inside = [
        d.sample.data[part.header_end : part.body_end].upper()
        for part in _all_parts(_message(d).root)
        if part.type.lower() == b"message" or part.kind == MESSAGE
    ]
    found = any(word.encode() in text for word in _body_words(d) for text in inside)
    return found and (d.ours or _combined(d))


def _all_parts(root: Part) -> list[Part]:
    found = [root]
    for part in found:
        found += part.children
    return found


def _search_bad_type(d: Difference) -> bool:
    """What is found stands in a part whose Content-Type cannot be read: it is text."""
    types = [part.first(b"content-type") for part in _all_parts(_message(d).root)]
    bad = any(value is not None and CONTENT_TYPE.fullmatch(value.rstrip()) is None for value in types)
    return "BODY" in _key(d) and (d.ours or _combined(d)) and bad


def _search_broken_base64(d: Difference) -> bool:
    return "BODY" in _key(d) and d.ours and re.search(rb"(?i)transfer-encoding: *\"?base64", d.sample.data) is not None


def _search_charset(d: Difference) -> bool:
    """Octets above 127 that the message declares in no charset that is known."""
    if not (re.search("CHARSET|TEXT|SORT", _key(d))):
        return False
    raw = re.search(rb"[\x80-\xff]", d.sample.data) is not None
    return raw or re.search(rb"(?i)=\?(?:unknown[^?]*|x-[^?]*)\?", d.sample.data) is not None


def _search_size(d: Difference) -> bool:
    """Sizes follow from line ends, which Dovecot changes."""
    return (
        re.search("LARGER|SMALLER", _key(d)) is not None and re.search(rb"(?<!\r)\n|\r\r\n", d.sample.data) is not None
    )


def _search_split_character(d: Difference) -> bool:
    """A character whose octets stand in two encoded words."""
    return (
        "CHARSET" in _key(d) and d.ours is True and re.search(rb"=E2=82\?= =\?utf-8\?q\?=AC", d.sample.data) is not None
    )


def _search_mislabelled(d: Difference) -> bool:
    return _key(d).startswith("SEARCH CHARSET US-ASCII SUBJECT {2+}") and (d.ours, d.theirs) == ("BAD", "OK")


def _search_envelope_line(d: Difference) -> bool:
    return "TEXT" in _key(d) and d.sample.data.startswith(b"From ")


# ----------------------------------------------------------------------------------------------------------------- SORT

_SORT_FIELDS: Final = {
    "DATE": b"date", "SUBJECT": b"subject", "FROM": b"from", "TO": b"to", "CC": b"cc", "DISPLAYFROM": b"from",
    "DISPLAYTO": b"to",
}  # fmt: skip


def _sort_keys(d: Difference) -> set[str]:
    match = re.search(r"SORT \(([A-Z ]*)\)", d.field)
    return set(match[1].split()) if d.kind == "SORT" and match is not None else set()


def _sorted_by(d: Difference, *keys: str) -> list[bytes]:
    """Values of the fields that those of the keys look at which were asked for."""
    return [v for key in _sort_keys(d).intersection(keys) for v in _message(d).root.every(_SORT_FIELDS[key])]


def _sort_size(d: Difference) -> bool:
    return "SIZE" in _sort_keys(d) and re.search(rb"(?<!\r)\n|\r\r\n", d.sample.data) is not None


def _sort_date(d: Difference) -> bool:
    return any(DATE.fullmatch(value.strip()) is None for value in _sorted_by(d, "DATE"))


def _sort_repeated(d: Difference) -> bool:
    """Fields that a message has once are there twice."""
    asked = _sort_keys(d).intersection(_SORT_FIELDS)
    return any(len(_message(d).root.every(_SORT_FIELDS[key])) > 1 for key in asked)


def _sort_octets(d: Difference) -> bool:
    """Octets above 127 in a field, or words in a charset that nobody knows."""
    values = _sorted_by(d, "SUBJECT", "DISPLAYFROM", "DISPLAYTO", "FROM", "TO", "CC")
    return any(re.search(rb"[\x80-\xff]|(?i:=\?(?:unknown|x-)[^?]*\?)", value) is not None for value in values)


def _sort_addresses(d: Difference) -> bool:
    return not all(map(_is_address_list, _sorted_by(d, "FROM", "TO", "CC", "DISPLAYFROM", "DISPLAYTO")))


@cache
def _is_address_list(value: bytes) -> bool:
    """A long one is taken for none: that pattern is slow."""
    return len(value) <= 5000 and ADDRESSES.fullmatch(value.rstrip()) is not None


# --------------------------------------------------------------------------------------------------------------- THREAD


def _thread_date(d: Difference) -> bool:
    return d.kind.startswith("THREAD") and any(DATE.fullmatch(value.strip()) is None for value in _dates(d))


def _thread_repeated(d: Difference) -> bool:
    fields = (b"subject", b"message-id", b"references", b"in-reply-to", b"date")
    return d.kind.startswith("THREAD") and any(len(_message(d).root.every(field)) > 1 for field in fields)


def _thread_octets(d: Difference) -> bool:
    """Octets above 127 in the subject, or words in a charset that nobody knows."""
    pattern = rb"[\x80-\xff]|(?i:=\?(?:unknown|x-)[^?]*\?)"
    return d.kind.startswith("THREAD") and any(re.search(pattern, v) for v in _message(d).root.every(b"subject"))


def _thread_duplicate(d: Difference) -> bool:
    return d.kind == "THREAD REFS" and d.field == "parent, an id of two" and d.theirs == ""


def _thread_long_id(d: Difference) -> bool:
    values = (value for field in (b"message-id", b"references") for value in _message(d).root.every(field))
    return d.kind.startswith("THREAD") and any(re.search(rb"<[^<>]{1000,}>", value) for value in values)


def _refs_order(d: Difference) -> bool:
    """Ours are the days on which the last message of each thread arrived, in order."""
    return d.kind == "THREAD REFS" and d.field == "order of threads" and d.ours == sorted(d.ours)


EXPLAINED: Final = (
    Explained(
        "line ends", "keeps a literal's octets; a lone LF ends a line as it is, CR CR LF has a CR more",
        "stores lines without CR and gives CRLF", "RFC 3501 §4.3 (a literal is its octets), RFC 5322 §2.3", _line_ends,
    ),
    Explained(
        "no blank line", "no blank line where the header has none", "adds one",
        "RFC 3501 §6.4.5 (HEADER.FIELDS: not for a message without body and blank line)", _no_blank_line,
    ),
    Explained(
        "absent part", "NIL", "an empty string", "RFC 3501 §9 (nstring), RFC 2046 §5.1.1 (a multipart has a part)",
        _absent_part,
    ),
    Explained(
        "child of a leaf", "NIL: there is no part 1 in a leaf that is a part", "the leaf itself",
        "RFC 3501 §6.4.5 (numbers of parts)", _leaf_child,
    ),
    Explained(
        "binary of a composite part", "its octets: a multipart or message has no encoding of its own to undo",
        "decodes the leaves inside and rewrites their headers, or refuses",
        "RFC 2045 §6.4, RFC 3516 §4.3", _binary_composite,
    ),
    Explained(
        "binary of broken data", "what can be decoded", "NO, or BYE and the connection is gone",
        "RFC 3516 §4.3 (only an unknown encoding is refused), RFC 2045 §6.8 (what is not base64 is ignored)",
        _binary_broken,
    ),
    Explained(
        "size of binary", "the number of octets that BINARY gives", "another one, even a negative one",
        "RFC 3516 §4.2 (BINARY.SIZE)", _binary_size,
    ),
    Explained(
        "end of an inner multipart", "the line end in front of a boundary belongs to the boundary",
        "belongs to the epilogue of the multipart inside", "RFC 2046 §5.1.1", _inner_multipart_end,
    ),
    Explained(
        "Content-Type outside the grammar", "text/plain, or the parameters that can be read",
        "empty strings, or other pieces", "RFC 2045 §5.2 (text/plain by default), §5.1", _bad_type,
    ),
    Explained(
        "Content-Disposition outside the grammar", "what can be read of it", "other pieces", "RFC 2183 §2, §2.8",
        _bad_disposition,
    ),
    Explained(
        "Content-Transfer-Encoding outside the grammar", "a quoted mechanism is that mechanism", "7bit",
        "RFC 2045 §6.1", _bad_encoding,
    ),
    Explained(
        "order of parameters", "as written", "those of RFC 2231 last", "RFC 2045 §5 (order is not significant)",
        _parameter_order,
    ),
    Explained(
        "parameters in pieces", "as written", "puts the pieces together", "RFC 2231 §3, RFC 3501 §7.4.2 (as sent)",
        _parameter_pieces,
    ),
    Explained(
        "white space of folded lines", "a tab of a folded line is a space, none in front", "in some places as it is",
        "RFC 5322 §3.2.2 (runs mean a single space)", _white_space,
    ),
    Explained(
        "white space runs", "in an unfolded subject as they were sent", "one space, none at the end",
        "RFC 5322 §2.2.3 (unfolding removes CRLF only), RFC 3501 §6.4.4", _white_space_runs,
    ),
    Explained(
        "address list outside the grammar", "every address that can be read, with what stands before it as its name",
        "SYNTAX_ERROR, MISSING_MAILBOX, MISSING_DOMAIN or the first address only", "RFC 5322 §3.4, §4.4",
        _bad_addresses,
    ),
    Explained(
        "lone CR in a header", "white space", "an octet like others, or drops what follows", "RFC 5322 §2.2, §2.3",
        _lone_cr,
    ),
    Explained(
        "boundary line inside a header", "ends the header and the part", "takes it for a line of the header",
        "RFC 2046 §5.1.1", _boundary_in_header,
    ),
    Explained(
        "boundary line at the end", "opens a part, which is empty", "opens none", "RFC 2046 §5.1.1", _boundary_at_end,
    ),
    Explained(
        "SENT… without Date", "does not match", "the Date is that of 1970", "RFC 3501 §6.4.4 (whose Date header is)",
        _no_date,
    ),
    Explained(
        "Date outside the grammar", "reads what can be read", "takes it for no date, or for that of 1970",
        "RFC 5322 §3.3, §4.3", _bad_date,
    ),
    Explained(
        "address keys", "look at the field as it was sent", "look at addresses with their stand-ins",
        "RFC 3501 §6.4.4 (FROM, TO, CC, BCC)", _search_address,
    ),
    Explained(
        "a header line without a colon", "no field: not searched", "a field that is empty", "RFC 5322 §2.2",
        _search_no_field,
    ),
    Explained(
        "markup", "HTML is searched as it is read, without tags", "tags are text",
        "RFC 9051 §6.4.4 (flexible matching)",
        _search_markup,
    ),
    Explained(
        "messages inside", "headers of messages inside and reports are body text", "not searched by BODY",
        "RFC 3501 §6.4.4 (BODY), RFC 2046 §5.2.1", _search_inner,
    ),
    Explained(
        "text of an unreadable type", "searched: it is text/plain", "not searched", "RFC 2045 §5.2", _search_bad_type,
    ),
    Explained(
        "text in broken base64", "what can be decoded is searched", "not searched", "RFC 2045 §6.8, §6.1",
        _search_broken_base64,
    ),
    Explained(
        "text without a known charset", "UTF-8 if it can be, else windows-1252", "dropped or as octets",
        "RFC 3501 §6.4.4 (CHARSET), RFC 2047 §6.2", _search_charset,
    ),
    Explained(
        "sizes of other line ends", "the octets that were appended", "its own with CRLF",
        "RFC 3501 §6.4.4 (LARGER, SMALLER), §4.3", _search_size,
    ),
    Explained(
        "character in two encoded words", "put together before they are decoded", "lost",
        "RFC 2047 §5 (what must not be done), §6.2", _search_split_character,
    ),
    Explained(
        "octets that the charset has not", "BAD", "taken for UTF-8", "RFC 3501 §6.4.4 (CHARSET labels the strings)",
        _search_mislabelled,
    ),
    Explained(
        "SORT by sizes of other line ends", "the octets that were appended", "its own with CRLF",
        "RFC 5256 §3 (SIZE), RFC 3501 §4.3", _sort_size,
    ),
    Explained(
        "SORT by a Date outside the grammar", "reads what can be read", "takes the internal date, or 1970",
        "RFC 5256 §2.2", _sort_date,
    ),
    Explained(
        "SORT by a field that is there twice", "the one that ENVELOPE shows", "the first",
        "RFC 5322 §3.6 (at most one)", _sort_repeated,
    ),
    Explained(
        "SORT by octets without a charset", "UTF-8 if they can be, else windows-1252", "as octets, or none",
        "RFC 5256 §3 (only what RFC 2047 encodes), RFC 2047 §6.2", _sort_octets,
    ),
    Explained(
        "SORT by an address outside the grammar", "the first address that can be read", "SYNTAX_ERROR or another one",
        "RFC 5322 §3.4, RFC 5957 §3", _sort_addresses,
    ),
    Explained(
        "THREAD by a Date outside the grammar", "reads what can be read", "takes the internal date, or 1970",
        "RFC 5256 §2.2, §3", _thread_date,
    ),
    Explained(
        "THREAD by a field that is there twice", "the one that ENVELOPE shows", "the first",
        "RFC 5322 §3.6 (at most one)", _thread_repeated,
    ),
    Explained(
        "THREAD by octets without a charset", "UTF-8 if they can be, else windows-1252", "as octets, or none",
        "RFC 5256 §2.1 step 1 (what RFC 2047 encodes), RFC 2047 §6.2", _thread_octets,
    ),
    Explained(
        "THREAD of an id that two messages have", "both answer what they refer to", "in a part of the mailbox, one",
        "RFC 5256 §3 (REFERENCES step 1)", _thread_duplicate,
    ),
    Explained(
        "THREAD by an id that is longer than a line", "none", "an id", "RFC 5322 §2.1.1 (998 octets)", _thread_long_id,
    ),
    Explained(
        "REFS, order of threads", "by the latest arrival in each", "by the latest Date in each",
        "draft-ietf-morg-inthread-01 §4 (most recent INTERNALDATE)", _refs_order,
    ),
    Explained(
        "mbox line", "no field, so no text", "text of the header", "RFC 5322 §2.2", _search_envelope_line,
    ),
)  # fmt: skip
"""The classes in the order in which they are tried."""
