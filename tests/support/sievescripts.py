"""Sieve scripts for hypothesis: tokens, whatever follows them; trees; scripts by the tables of the language."""

from __future__ import annotations

from hypothesis import strategies as st

from sora.sieve.language import COMMANDS, EXTENSIONS, TESTS

_words = st.sampled_from(
    ["if", "keep", "_a1", ":is", "TEXT:", "text: # c\r\n", "text:\n..a\n.b\r\n.\r\n", "text:\n.\n", '"', "\\",
     '"a\\"b"', '"\n"', "é",
     "\U0001f600", "[", "]", ",", ";", "{", "}", "(", ")", "1K", "9", "10GB", "9" * 19, "#", "/*",
     "*/", "\n", "\r\n", "\r", ".", ":", "\t", " ", "\x00", "a"]
)  # fmt: skip
_grammatical = st.recursive(
    st.sampled_from(["keep;", 'redirect "a";', "stop 5;", 'x [ "a" , "b" ] :c text:\na\n.\n;']),
    lambda inner: st.builds(
        lambda test, block: f"if {test} {{ {' '.join(block)} }}",
        st.sampled_from(["true", "not a 1", 'anyof (a, b ["c"], not (d))', "a :b 2K"]),
        st.lists(inner, max_size=3),
    ),
    max_leaves=5,
)

TOKENS = st.one_of(st.lists(_words, max_size=12).map("".join), st.text(max_size=20))
TREES = st.one_of(st.lists(st.one_of(_words, _grammatical), max_size=8).map(" ".join), _grammatical)

# ---------------------------------------------------------------------------------------------------- by the tables

_names = sorted({*COMMANDS, *TESTS})
_tags = sorted({tag.name for row in (*COMMANDS.values(), *TESTS.values()) for tag in row.tags})
_strings = st.sampled_from(
    ["subject", "from", "to", "a@b.c", "*", "?*", "(a|b)*", "${a}", "${1}", "a", "INBOX", "\\Seen",
    "i;octet", "eq", "+0100",
     "mailto:a@b.c", "text/plain", "year", "date", "message-id", "i;ascii-numeric", "Content-Type",
     "library", "global.a",
     "${unicode:41}", "é\n", "", "1", "NEVER", "2024-03-05T13:30:10Z", "received"]
)  # fmt: skip


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_string = _strings.map(_quoted)
_argument = st.one_of(
    _string,
    st.lists(_string, min_size=1, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
    st.sampled_from(_tags),
    st.integers(0, 5000).map(str),
)
_nonsense = st.builds(
    lambda name, arguments: f"{name} {' '.join(arguments)}", st.sampled_from(_names), st.lists(_argument, max_size=4)
)


@st.composite
def _by_the_table(draw: st.DrawFn, name: str) -> str:
    """A test or command with arguments of the right kinds."""
    row = {**COMMANDS, **TESTS}[name]
    values = {"STRING": _string, "STRINGS": _string, "NUMBER": st.integers(0, 5000).map(str)}
    words = [name]
    for tag in draw(st.lists(st.sampled_from(row.tags), max_size=2, unique=True)) if row.tags else []:
        words += [tag.name, *([draw(values[tag.value.name])] if tag.value else [])]
    words += [draw(values[shape.name]) for shape in row.positional]
    return " ".join(words)


_tests = st.recursive(
    st.sampled_from(sorted(set(TESTS) - {"not", "allof", "anyof"})).flatmap(_by_the_table),
    lambda inner: st.one_of(
        inner.map(lambda test: f"not {test}"),
        st.lists(inner, min_size=1, max_size=3).map(lambda tests: f"anyof ({', '.join(tests)})"),
    ),
    max_leaves=3,
)
_actions = st.sampled_from(sorted(set(COMMANDS) - {"if", "elsif", "else", "foreverypart", "require"})).flatmap(
    _by_the_table
)
_commands = st.recursive(
    _actions.map(lambda action: f"{action};\n"),
    lambda inner: st.one_of(
        st.builds(lambda test, block: f"if {test} {{ {''.join(block)} }}\n", _tests, st.lists(inner, max_size=3)),
        st.lists(inner, max_size=3).map(lambda block: f"foreverypart {{ {''.join(block)} }}\n"),
    ),
    max_leaves=6,
)
_REQUIRE = "require [" + ", ".join(f'"{name}"' for name in sorted(EXTENSIONS - {"ihave"})) + "];\n"

SCRIPTS = st.lists(st.one_of(_commands, _commands, _nonsense.map(lambda text: f"{text};")), max_size=6).map(
    lambda commands: _REQUIRE + "".join(commands)
)
