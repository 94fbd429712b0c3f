"""A whole OpenStack Swift with its S3 interface in one process: proxy, account, container and object server.

Run by the interpreter of `.venv-s3`, never imported by the tests:

    .venv-s3/bin/python -P tests/support/swift_server.py DIRECTORY ACCESS_KEY PORT < secret

(-P, because the directory of this file has a `swift.py` too.)

Everything it stores is below DIRECTORY and outlives a SIGKILL. PORT 0 takes any. When it serves, it prints one line of
JSON, `{"port": …}`; it dies with its parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

import eventlet
import swift.common.utils
from eventlet import wsgi

# The modules below read swift.conf and patch the standard library while they are imported, so the order counts.
_DIRECTORY = Path(sys.argv[1])
swift.common.utils.SWIFT_CONF_FILE = str(_DIRECTORY / "swift.conf")
swift.common.utils.monkey_patch()

ROLES = ("account", "container", "object")
PR_SET_PDEATHSIG = 1

SWIFT_CONF = """\
[swift-hash]
swift_hash_path_suffix = sora
swift_hash_path_prefix = sora
[storage-policy:0]
name = only
default = yes
"""

STORAGE_CONF = """\
[DEFAULT]
devices = {directory}/devices
mount_check = false
swift_dir = {directory}
disable_fallocate = true
log_address = /dev/null
[pipeline:main]
pipeline = {role}-server
[app:{role}-server]
use = egg:swift#{role}
auto_create_account_prefix = .
"""

PROXY_CONF = """\
[DEFAULT]
swift_dir = {directory}
log_address = /dev/null
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck s3api tempauth bulk slo dlo versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
dns_compliant_bucket_names = true
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_{account}_{user} = {secret} .admin
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
[filter:symlink]
use = egg:swift#symlink
"""


class LocalCache:
    """What Swift asks of memcached, in this process; without it every request looks account and bucket up on disk."""

    def __init__(self):
        self._entries = {}

    def get(self, key, raise_on_error=False):
        value, until = self._entries.get(key, (None, 0.0))
        return json.loads(value) if value is not None and (not until or until > time.time()) else None

    def set(self, key, value, serialize=True, time=0, min_compress_len=0, raise_on_error=False):
        self._entries[key] = (json.dumps(value), _until(time))

    def incr(self, key, delta=1, time=0):
        number = max(0, (self.get(key) or 0) + int(delta))
        self.set(key, number, time=time)
        return number

    def decr(self, key, delta=1, time=0):
        return self.incr(key, -int(delta), time)

    def delete(self, key, server_key=None):
        self._entries.pop(key, None)

    def set_multi(self, mapping, server_key, serialize=True, time=0, min_compress_len=0):
        for key, value in mapping.items():
            self.set(key, value, time=time)

    def get_multi(self, keys, server_key):
        return [self.get(key) for key in keys]


def _until(seconds):
    return time.time() + seconds if seconds else 0.0


def write_configuration(directory, access_key, secret):
    """The configuration files of all four servers."""
    account, _, user = access_key.partition(":")
    (directory / "devices" / "d1").mkdir(parents=True, exist_ok=True)
    (directory / "swift.conf").write_text(SWIFT_CONF)
    (directory / "proxy.conf").write_text(
        PROXY_CONF.format(directory=directory, account=account, user=user, secret=secret)
    )
    for role in ROLES:
        (directory / f"{role}.conf").write_text(STORAGE_CONF.format(directory=directory, role=role))


def write_rings(directory, ports):
    """One device each. Where data lies depends on the one device only, so new ports find the old data."""
    from swift.common.ring import RingBuilder

    for role in ROLES:
        builder = RingBuilder(4, 1, 1)
        builder.add_dev(
            {"id": 0, "region": 1, "zone": 1, "weight": 1.0, "ip": "127.0.0.1", "port": ports[role], "device": "d1"}
        )
        builder.rebalance(seed="sora")
        builder.get_ring().save(str(directory / f"{role}.ring.gz"))


def load(directory, role):
    """The WSGI application of a server."""
    from swift.common.wsgi import loadapp

    application = loadapp(str(directory / f"{role}.conf"), global_conf={"log_name": role})
    if role != "proxy":
        return application
    cache = LocalCache()

    def with_cache(environ, start_response):
        environ["swift.cache"] = cache
        return application(environ, start_response)

    return with_cache


def serve(listener, application):
    """Serve one application for ever."""
    from swift.common.http_protocol import SwiftHttpProtocol
    from swift.common.utils import NullLogger

    # s3api needs the header to be spelled "ETag", which eventlet would capitalise its own way.
    wsgi.server(
        listener, application, NullLogger(), protocol=SwiftHttpProtocol, capitalize_response_headers=False, debug=False
    )


def die_with_parent():
    """A test run that is killed leaves no server behind."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main():
    """Start everything and tell the port."""
    import warnings

    warnings.filterwarnings("ignore", message="capitalize_response_headers is disabled")
    die_with_parent()
    os.environ["TZ"] = "UTC+0"
    time.tzset()
    _, _, access_key, port = sys.argv
    write_configuration(_DIRECTORY, access_key, sys.stdin.readline().strip())
    swift.common.utils.validate_hash_conf()
    from swift.common.storage_policy import reload_storage_policies

    reload_storage_policies()
    listeners = {role: eventlet.listen(("127.0.0.1", 0)) for role in ROLES}
    listeners["proxy"] = eventlet.listen(("127.0.0.1", int(port)), reuse_addr=True)
    write_rings(_DIRECTORY, {role: listener.getsockname()[1] for role, listener in listeners.items()})
    servers = [eventlet.spawn(serve, listener, load(_DIRECTORY, role)) for role, listener in listeners.items()]
    sys.stdout.write(json.dumps({"port": listeners["proxy"].getsockname()[1]}) + "\n")
    sys.stdout.flush()
    for server in servers:
        server.wait()


if __name__ == "__main__":
    main()
