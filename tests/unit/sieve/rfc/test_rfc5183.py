"""RFC 5183 (environment), rule by rule."""

from __future__ import annotations

from tests.support.sieverules import does, is_, refuses, walk

ITEMS = {"domain": "example.org", "location": "MDA", "name": "Sora", "phase": "post", "remote-host": "mx.example.org"}
test = walk(
    "5183",
    is_("§4", "an item", "environment", 'environment "location" "MDA"', True, items=ITEMS),
    is_("§4", "match types and comparators", "environment", 'environment :matches :comparator "i;octet" "domain" "*.org"', True, items=ITEMS),
    is_("§4", "an unknown item matches nothing", "environment", 'environment :contains "vnd.x" ""', False, items=ITEMS),
    is_("§4", "names in any case", "environment", 'environment "LOCATION" "MDA"', True, items=ITEMS),
    is_("§4.1", "phase", "environment", 'environment "phase" "post"', True, items=ITEMS),
    is_("§4.1", "name", "environment", 'environment :is "name" "Sora"', True, items=ITEMS),
    is_("§4.1", "remote-host", "environment", 'environment :contains "remote-host" "example.org"', True, items=ITEMS),
    does("§4", "it sets match variables", "environment variables fileinto",
         'if environment :matches "domain" "*.*" { fileinto "${1}"; }', ["fileinto example"], items=ITEMS),
    refuses("§3", "it is required", "", 'if environment "name" "x" {}', "needs require"),
)  # fmt: skip
