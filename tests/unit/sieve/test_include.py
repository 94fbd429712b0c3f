"""RFC 6609."""

from __future__ import annotations

from typing import Any

from sora.sieve.limits import Limits
from sora.sieve.questions import IncludeScript
from sora.sieve.script import compile
from tests.support.sieve import did, errors, execute

LIBRARY = {
    ("spam", True): 'require "fileinto"; fileinto "Spam";',
    ("stop", True): "stop;",
    ("return", True): 'require "include"; if true { return; } discard;',
    ("site", False): 'require ["include", "variables"]; global "g"; set "g" "site${g}"; set "own" "x";',
    ("local", True): 'require ["variables", "fileinto"]; fileinto "<${own}${1}>";',
    ("fail", True): 'require "ihave"; error "broken";',
    ("itself", True): 'require "include"; include "itself";',
    ("deep", True): 'require "include"; include "deeper";',
    ("deeper", True): 'require "include"; include "spam";',
    ("break", True): "keep;",
    ("env", True): 'require ["include", "variables", "fileinto"]; fileinto "${global.x}";',
}


def scripts(question: IncludeScript) -> Any:
    source = LIBRARY.get((question.name, question.personal))
    return None if source is None else compile(source.encode())


def ran(script: str, **arguments: Any) -> list[str]:
    return did(f'require ["include", "variables", "fileinto"]; {script}', answers={IncludeScript: scripts}, **arguments)


def test_include_runs_what_is_included() -> None:
    assert ran('include "spam";') == ["fileinto Spam"]
    assert ran('include :personal "spam"; discard;') == ["fileinto Spam", "discard"]


def test_personal_and_global_are_apart() -> None:
    assert ran('include :global "spam";')[0].startswith("error: script 1, line 1: There is no script")
    assert ran('include :global "site";') == ["keep"]
    assert errors('require "include"; include :personal :global "a";')


def test_optional() -> None:
    assert ran('include :optional "nothing"; discard;') == ["discard"]
    assert ran('include "nothing"; discard;')[0].startswith("error:")


def test_once() -> None:
    assert ran('include "spam"; include "spam";') == ["fileinto Spam"]
    assert ran('global "x"; include :global "site"; include :global "site"; global "g"; fileinto "${g}";') == [
        "fileinto sitesite"
    ]
    once = 'include :once :global "site"; include :once :global "site"; global "g"; fileinto "${g}";'
    assert ran(once) == ["fileinto site"]
    assert ran('include :global "site"; ' + once) == ["fileinto site"]


def test_stop_ends_everything_return_only_the_script() -> None:
    assert ran('include "stop"; discard;') == ["keep"]
    assert ran('include "return"; fileinto "A";') == ["fileinto A"]
    assert ran("if true { return; } discard;") == ["keep"]


def test_a_script_cannot_include_itself() -> None:
    assert ran('include "itself";')[0] == 'error: script 1, line 1: The script "itself" includes itself'


def test_depth_and_number() -> None:
    assert ran('include "deep";') == ["fileinto Spam"]
    assert "deeper than 2" in ran('include "deep";', limits=Limits(include_depth=2))[0]
    assert "More than 3 scripts" in ran('include "spam";' * 4, limits=Limits(includes=3))[0]


def test_variables_are_the_scripts_own() -> None:
    assert ran('set "own" "mine"; if string :matches "ab" "?*" {} include "local"; fileinto "${own}${1}";') == [
        "fileinto <>", "fileinto minea",
    ]  # fmt: skip
    assert ran('include :global "site"; fileinto "<${own}>";') == ["fileinto <>"]


def test_globals_are_shared() -> None:  # §3.4.1
    assert ran('global "g"; set "g" "1"; include :global "site"; fileinto "${g}";') == ["fileinto site1"]
    assert ran('global ["a", "g"]; include :global "site"; fileinto "${G}";') == ["fileinto site"]


def test_the_namespace() -> None:  # §3.4.3
    assert ran('set "global.x" "y"; include "env"; fileinto "${global.x}-${x}";') == ["fileinto y", "fileinto y-"]
    assert ran('global "x"; set "x" "y"; fileinto "${global.X}";') == ["fileinto y"]


def test_failures_inside_are_failures() -> None:
    assert ran('include "fail";') == ["error: script 1, line 1: broken", "keep"]


def test_globals_do_not_pass_to_the_next_script_of_a_sequence() -> None:
    first = 'require ["include", "variables"]; global "x"; set "x" "y";'
    second = 'require ["include", "variables", "fileinto"]; global "x"; fileinto "<${x}>";'
    assert did(first, second) == ["fileinto <>"]


def test_mistakes() -> None:
    assert errors('require "include"; global "a";') == ['1:20 "global" needs require "variables"']
    assert errors('require ["include", "variables"]; global "a-b";') == ["1:35 This is no name of a variable"]
    assert errors('require ["include", "variables"]; include "${a}";') == [
        "1:35 The name of an included script is a constant (RFC 6609 §3.2)"
    ]
    assert errors('require "include"; include "";')
    assert errors("return;") == ['1:1 The command "return" needs require "include"']


def test_too_many_globals() -> None:
    names = ",".join(f'"v{number}"' for number in range(300))
    assert "More than 256 variables" in execute(f'require ["include", "variables"]; global [{names}];').error
