"""Messages whose order and whose threads are known, for the transcripts of SORT and THREAD."""

from __future__ import annotations

from typing import Final


def note(subject: str = "", *, number: str = "", refs: str = "", date: str = "", body: int = 1, **fields: str) -> bytes:
    """A message with those header fields that are given.

    Args:
        number: Local part of the message id.
        refs: Local parts of References, separated by spaces.
        date: Day and time in January 2026, in UTC.
        body: Lines.
        fields: More fields; an underscore in a name stands for a hyphen.
    """
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    lines += [f"Subject: {subject}"] if subject else []
    lines += [f"Message-ID: <{number}@example.org>"] if number else []
    lines += [f"References: {' '.join(f'<{ref}@example.org>' for ref in refs.split())}"] if refs else []
    lines += [f"Date: {date.split()[0]} Jan 2026 {date.split()[1]} +0000"] if date else []
    return "\r\n".join([*lines, "", *["."] * body, ""]).encode()


SAMPLES: Final[dict[str, bytes]] = {
    "sort1": note("Re: zebra", date="8 10:00:00", From="Zoe <anna@b.example>", To="Y <yves@a.example>", body=50),
    "sort2": note("[list] Zebra (fwd)", date="7 10:00:00", From="=?utf-8?q?=C3=89mile?= <Bob@a.example>", body=40),
    "sort3": note(
        "Mango", date="10 10:00:00", From='"=?utf-8?q?=C3=A4nne?=" <anna@a.example>', Cc="z@a.example", body=90
    ),
    "sort4": note("mango", date="2 10:00:00", From="carl@c.example, anna@a.example", To="b@a.example", body=60),
    "sort5": note("=?utf-8?q?apple?=", To="Friends: zoe@a.example;", Cc='"b\\"b"@a.example', body=70),
    "thread1": note("one", number="b", date="1 1:00:00"),
    "thread2": note("two", number="c", date="1 2:00:00"),
    "thread3": note("three", number="d", refs="c f", date="1 3:00:00"),
    "thread4": note("Re: two", number="f", refs="c", date="1 4:00:00"),
    "thread5": note("four", number="g", refs="c f x", date="1 5:00:00"),
    "thread6": note("Re: three", number="w", refs="c f d", date="1 6:00:00"),
    "thread7": note("five", number="x", refs="c f", date="1 7:00:00"),
    "thread8": note("Re: one", number="y", refs="x g", date="1 8:00:00"),
    "orphan1": note("hello", number="o1", refs="gone", date="2 2:00:00"),
    "orphan2": note("world", number="o2", refs="gone", date="2 1:00:00"),
    "late": note("Re: one", number="l", refs="b", date="3 1:00:00"),
    "same1": note("Lunch", number="s1", date="5 1:00:00"),
    "same2": note("Re: [team] lunch", number="s2", date="4 1:00:00"),
    "same3": note("LUNCH (fwd)", number="s3", date="6 1:00:00"),
    "same4": note("Dinner", number="s4", date="4 3:00:00"),
    "same5": note("dinner", number="s5", In_Reply_To="<s4@example.org> (of the 4th)", date="4 5:00:00"),
    "same6": note("dinner", number="s6", date="4 2:00:00"),
}
