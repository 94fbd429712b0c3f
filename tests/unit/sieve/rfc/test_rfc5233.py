"""RFC 5233 (subaddress), rule by rule."""

from __future__ import annotations

from tests.support.sieve import mail
from tests.support.sieverules import does, is_, refuses, walk

SCRIPT = """if envelope :user "to" "postmaster" { fileinto "inbox.postmaster"; stop; }
    if envelope :detail :is "to" "mta-filters" { fileinto "inbox.ietf-mta-filters"; }
    if header :matches "X-Spam" "*" { if allof (envelope :user "to" "ken", envelope :detail "to" "sales") { fileinto "inbox.sales"; } }"""
S = "envelope subaddress fileinto"
test = walk(
    "5233",
    is_("§4", ":user", S, 'address :user "cc" "ken"', True),
    is_("§4", ":detail", S, 'address :detail "cc" "sales"', True),
    is_("§4", "no detail matches nothing", S, 'address :detail :contains "from" ""', False),
    is_("§4", "an empty detail is the empty string", S, 'address :detail "to" ""', True, mail=mail(To="ken+@example.org")),
    is_("§4", "the first separator counts", S, 'address :detail "to" "a+b"', True, mail=mail(To="ken+a+b@example.org")),
    is_("§4", ":user without a separator is the local part", S, 'address :user "from" "coyote"', True),
    is_("§4", ":localpart has both", S, 'address :localpart "cc" "ken+sales"', True),
    refuses("§4", "one part of an address", S, 'if address :user :detail "to" "a" {}', "Only one of"),
    does("§5 example", "postmaster", S, SCRIPT, ["fileinto inbox.postmaster"], recipient="postmaster+x@example.com"),
    does("§5 example", "a list by its detail", S, SCRIPT, ["fileinto inbox.ietf-mta-filters"], recipient="ken+mta-filters@example.org"),
)  # fmt: skip
