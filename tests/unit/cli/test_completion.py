"""Completion scripts in the shells that they are for."""

from __future__ import annotations

import argparse
import json
import os
import pty
import select
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from sora.cli import admin, completion, ctl

if TYPE_CHECKING:
    from pathlib import Path

PARSERS = {"soractl": ctl.build_parser, "sora-admin": admin.build_parser}

CASES = [
    ("soractl", ["sta"], {"start", "status"}),
    ("soractl", ["status", "--"], {"--help", "--config", "--json"}),
    ("soractl", ["--config", "x", "upg"], {"upgrade"}),  # the top has no such option: still a command
    ("soractl", ["start", "--config", "stop", "--de"], {"--detach"}),  # a value is no command
    ("soractl", ["demo", "--domain", ""], set()),
    ("soractl", ["completion", ""], {"bash", "zsh", "fish", "-h", "--help", "--json"}),
    ("sora-admin", ["acc"], {"accounts"}),
    ("sora-admin", ["accounts", "cr"], {"create"}),
    ("sora-admin", ["--config", "accounts", "accounts", "create", "--pass"], {"--password-stdin"}),
]


@pytest.mark.parametrize(("prog", "words", "offered"), CASES, ids=[" ".join((p, *words)) for p, words, _ in CASES])
def test_bash_offers(prog: str, words: list[str], offered: set[str]) -> None:
    script = completion.render(PARSERS[prog](), "bash")
    line = f"""
        {script}
        COMP_WORDS=({prog} {" ".join(f"'{word}'" for word in words)})
        COMP_CWORD={len(words)}
        function=$(complete -p {prog} | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
        $function {prog}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "--norc", "-c", line], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == offered
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize(
    ("typed", "becomes"),
    [
        ("soractl relo\t", "<reload>"),
        ("soractl check --conf\t", "<--config>"),
        ("soractl check --config sora.to\t", "<--config><sora.toml>"),
        ("sora-admin accounts cre\t", "<create>"),
    ],
)
def test_a_person_types_and_presses_tab(tmp_path: Path, shell: str, typed: str, becomes: str) -> None:
    """A real shell at a terminal: what it hands to the command is what it completed."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "sora.toml").touch()
    prog = typed.split()[0]
    start = "autoload -U compinit; compinit -D -u\n" if shell == "zsh" else ""
    show = f"{prog}() {{ printf '<%s>' \"$@\"; echo; }}\n"
    (tmp_path / "rc").write_text(f"{start}{completion.render(PARSERS[prog](), shell)}\n{show}printf 'go%s\\n' ' on'\n")
    options = ["-f", "-i"] if shell == "zsh" else ["--norc", "--noprofile", "-i"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execvpe(shell, [shell, *options], {**os.environ, "TERM": "dumb", "PS1": "$ ", "INPUTRC": "/dev/null"})
    try:
        os.write(terminal, b". ./rc\n")
        _read_until(terminal, b"go on")
        os.write(terminal, typed.encode() + b"\n")
        _read_until(terminal, becomes.encode())
    finally:
        os.close(terminal)
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def _read_until(terminal: int, words: bytes) -> None:
    seen, deadline = b"", time.monotonic() + 15
    while words not in seen:
        if not select.select([terminal], [], [], deadline - time.monotonic())[0]:
            raise AssertionError(f"no {words!r} in {seen!r}")
        seen += os.read(terminal, 4096)


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(("prog", "words", "offered"), CASES, ids=[" ".join((p, *words)) for p, words, _ in CASES])
def test_fish_offers(tmp_path: Path, prog: str, words: list[str], offered: set[str]) -> None:
    (tmp_path / "script").write_text(completion.render(PARSERS[prog](), "fish"))
    line = f"source {tmp_path}/script; complete -C '{prog} {' '.join(words)}'"
    done = subprocess.run(["fish", "--no-config", "-c", line], capture_output=True, text=True, check=True)
    found = {text.split("\t")[0] for text in done.stdout.splitlines()}
    if not words[-1].startswith("-"):  # fish shows options when asked for options
        offered = {word for word in offered if not word.startswith("-")}
    assert found == offered


def test_texts_that_a_shell_would_read_in_its_own_way(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser(prog="tool", add_help=False)
    parser.add_argument(
        "--how", choices=["a-b", "c"], help="it's \\ 100%% of $HOME: `x`, default %(default)s", default="c"
    )
    parser.add_argument("--no-more", action="store_true")
    (command,) = completion.commands(parser)
    assert command.options[0].about == "it's \\ 100% of $HOME: `x`, default c"
    for shell in completion.SHELLS:
        if shutil.which(shell):
            (tmp_path / "script").write_text(completion.render(parser, shell))
            subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_both_commands_write_the_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    for main, build in ((ctl.main, ctl.build_parser), (admin.main, admin.build_parser)):
        script = completion.render(build(), shell)
        assert main(["completion", shell]) == 0
        assert capsys.readouterr().out == script
        assert main(["completion", "--json", shell]) == 0
        assert json.loads(capsys.readouterr().out) == {"shell": shell, "script": script}


@pytest.mark.parametrize("prog", PARSERS)
def test_every_verb_knows_json(prog: str) -> None:
    tree = list(completion.commands(PARSERS[prog]()))
    leaves = [one for one in tree if not any(other.path[:-1] == one.path for other in tree if other.path)]
    assert len(leaves) > 8
    for command in leaves:
        assert any("--json" in option.names for option in command.options), command.path
