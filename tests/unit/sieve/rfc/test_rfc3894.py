"""RFC 3894 (copy), rule by rule."""

from __future__ import annotations

from tests.support.sieverules import does, refuses, walk

test = walk(
    "3894",
    does("§3 example", "fileinto :copy", "copy fileinto", 'if true { fileinto :copy "incoming"; }', ["fileinto incoming", "keep"]),
    does("§3", "redirect :copy", "copy", 'redirect :copy "a@example.org";', ["redirect a@example.org", "keep"]),
    does("§3", "an earlier cancel is not undone", "copy fileinto", 'discard; fileinto :copy "a";', ["discard", "fileinto a"]),
    does("§3", "without :copy it is cancelled", "copy fileinto", 'fileinto :copy "a"; fileinto "b";', ["fileinto a", "fileinto b"]),
    refuses("§3", ":copy is required", "fileinto", 'fileinto :copy "a";', ':copy needs require "copy"'),
    refuses("§3", "keep has no :copy", "copy", "keep :copy;", "has no argument :copy"),
)  # fmt: skip
