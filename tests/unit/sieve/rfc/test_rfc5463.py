"""RFC 5463 (ihave), rule by rule."""

from __future__ import annotations

from tests.support.sieverules import does, fails, refuses, walk

test = walk(
    "5463",
    does("§4 example", "what is there is used", "ihave", 'if ihave "fileinto" { fileinto "a"; } else { discard; }', ["fileinto a"]),
    does("§4", "what is not there is not", "ihave", 'if ihave "vnd.x" { vnd "a"; } else { discard; }', ["discard"]),
    does("§4", "all of them", "ihave", 'if ihave ["fileinto", "vnd.x"] { fileinto "a"; } else { discard; }', ["discard"]),
    does("§4", "not ihave", "ihave", 'if not ihave "vnd.x" { discard; }', ["discard"]),
    fails("§4", "an unsupported command that is reached", "ihave", 'if not ihave "vnd.x" { vnd "a"; }', "not supported"),
    does("§4", "in allof", "ihave", 'if allof (ihave "envelope", envelope "from" "coyote@desert.example.org") { discard; }', ["discard"]),
    refuses("§4", "it takes constants", "ihave variables", 'if ihave "${a}" {}', "takes constants"),
    refuses("§4", "grammar holds all the same", "ihave", 'if ihave "vnd.x" { vnd ; ; }', "Expected a command"),
    fails("§5 example", "error", "ihave", 'if ihave "fileinto" { error "no way"; }', "no way"),
    refuses("§3", "it is required", "", 'if ihave "fileinto" {}', "needs require"),
)  # fmt: skip
