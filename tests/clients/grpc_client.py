#!/usr/bin/env python3
"""An independent client of the gRPC API, built from what reflection tells and nothing else.

It knows the API's documentation, not its files: no stub is generated from `proto/`. It checks health,
lists the services, writes through one node, reads back through another, and checks what failures
carry. It says what it did, and exits 1 at the first difference.
"""

import argparse
import os
import sys

import grpc
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

SERVICES = ["Cluster", "Collections", "Enrollment", "Records", "Snapshots"]
PACKAGE = "ratoon.v1"
TIMEOUT_SECONDS = 30
RECORDS = 100
PAGE_RECORDS = 7


class Difference(Exception):
    """The API did something other than its documentation says."""


def check(condition, message):
    if not condition:
        raise Difference(message)


def say(text):
    print(text, flush=True)


class Node:
    """One node's API, called by method name with messages made from reflection."""

    def __init__(self, address, credentials):
        self.address = address
        self.channel = grpc.secure_channel(address, credentials)
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)

    def call(self, service, method, timeout=TIMEOUT_SECONDS, **fields):
        found = self.pool.FindServiceByName(f"{PACKAGE}.{service}").FindMethodByName(method)
        request = message_factory.GetMessageClass(found.input_type)(**fields)
        answer = message_factory.GetMessageClass(found.output_type)
        return self.channel.unary_unary(
            f"/{PACKAGE}.{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )(request, timeout=timeout)

    def health(self, service):
        stub = health_pb2_grpc.HealthStub(self.channel)
        request = health_pb2.HealthCheckRequest(service=service)
        return stub.Check(request, timeout=TIMEOUT_SECONDS).status

    def failure(self, error):
        """The `Failure` in the details of a failed call: google.rpc.Status, around one Any."""
        details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
        check(details is not None, f"a failure without details: {error}")
        status = rich_status_class().FromString(details)
        check(len(status.details) == 1, f"{len(status.details)} details instead of one")
        failure = self.pool.FindMessageTypeByName(f"{PACKAGE}.Failure")
        message = message_factory.GetMessageClass(failure)()
        check(status.details[0].Unpack(message), f"details of type {status.details[0].type_url}")
        return message

    def refused(self, status, code, service, method, **fields):
        """Makes a call that must fail with this gRPC status and this code in its details."""
        try:
            self.call(service, method, **fields)
        except grpc.RpcError as error:
            check(error.code() == status, f"{method}: {error.code()} instead of {status}")
            failure = self.failure(error)
            check(failure.code == code, f"{method}: {failure.code} instead of {code}")
            check(failure.message, f"{method}: a failure without a message")
            return failure
        raise Difference(f"{service}.{method} was not refused with {code}")


def rich_status_class():
    """google.rpc.Status, written down here to need no further package."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(any_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name="google/rpc/status.proto",
        package="google.rpc",
        syntax="proto3",
        dependency=["google/protobuf/any.proto"],
    )
    message = file.message_type.add(name="Status")
    field = descriptor_pb2.FieldDescriptorProto
    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    message.field.add(name="code", number=1, type=field.TYPE_INT32, label=one)
    message.field.add(name="message", number=2, type=field.TYPE_STRING, label=one)
    message.field.add(
        name="details",
        number=3,
        type=field.TYPE_MESSAGE,
        type_name=".google.protobuf.Any",
        label=many,
    )
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("google.rpc.Status"))


def expected_records():
    """Keys and values with every byte in them, an empty value, and a large one."""
    records = {bytes([i, 0, 255 - i]): bytes(range(i)) for i in range(RECORDS)}
    records[b"empty"] = b""
    records[b"large"] = os.urandom(1 << 20)
    records["schlüssel".encode()] = "wert".encode()
    return records


def check_health(node):
    for service in ["", *(f"{PACKAGE}.{name}" for name in SERVICES)]:
        status = node.health(service)
        serving = health_pb2.HealthCheckResponse.SERVING
        check(status == serving, f"{node.address} says {status} of {service!r}, not SERVING")
    say(f"{node.address}: healthy, and so are its {len(SERVICES)} services")


def check_services(node):
    found = set(node.database.get_services())
    missing = [name for name in SERVICES if f"{PACKAGE}.{name}" not in found]
    check(not missing, f"reflection at {node.address} does not list {missing}")
    say(f"{node.address}: reflection lists {', '.join(sorted(found))}")


def write(leader, collection, records):
    session = leader.call("Records", "OpenSession").session
    check(session > 0, "the session is 0")
    versions = {}
    for sequence, (key, value) in enumerate(records.items(), start=1):
        put = {
            "collection": collection,
            "key": key,
            "value": value,
            "content_type": "application/octet-stream",
            "session": {"session": session, "sequence": sequence},
        }
        versions[key] = leader.call("Records", "Put", **put).version
        if sequence == 1:
            again = leader.call("Records", "Put", **put).version
            check(again == versions[key], f"a retry wrote version {again}, not {versions[key]}")
    check(len(set(versions.values())) == len(versions), "two writes have the same version")
    say(f"put {len(versions)} records in session {session}; a retry executed once")
    return versions


def scan_all(node, collection, **fields):
    records, cursor, indexes = [], b"", set()
    while True:
        page = node.call(
            "Records", "Scan", collection=collection, limit=PAGE_RECORDS, cursor=cursor, **fields
        )
        check(len(page.records) <= PAGE_RECORDS, f"a page of {len(page.records)} records")
        records.extend(page.records)
        indexes.add(page.index)
        cursor = page.cursor
        if not cursor:
            check(len(indexes) == 1, f"pages of one scan at different indexes: {indexes}")
            return records


def check_scan(node, collection, expected, versions):
    found = scan_all(node, collection)
    keys = [record.key for record in found]
    check(keys == sorted(expected), f"scan at {node.address}: {len(keys)} keys, not as written")
    for record in found:
        check(record.value == expected[record.key], f"another value under {record.key!r}")
        check(record.version == versions[record.key], f"another version under {record.key!r}")
    some = scan_all(node, collection, start=bytes([3]), end=bytes([6]), keys_only=True)
    check([record.key[0] for record in some] == [3, 4, 5], "a scan from 3 to 6 shows other keys")
    check(not any(record.value for record in some), "a scan of keys shows values")
    say(f"{node.address}: scanned {len(found)} records in pages of {PAGE_RECORDS}, all equal")


def check_reads(follower, collection, expected, versions):
    for key, value in expected.items():
        record = follower.call("Records", "Get", collection=collection, key=key).record
        check(record.value == value, f"the follower has another value under {key!r}")
        check(record.version == versions[key], f"the follower has another version of {key!r}")
    newest = max(versions.values())
    consistency = {"level": 1, "min_index": newest}
    answer = follower.call(
        "Records", "Get", collection=collection, key=b"empty", consistency=consistency
    )
    check(answer.index >= newest, f"a read from index {newest} was answered at {answer.index}")
    say(f"{follower.address}: read {len(expected)} records linearizably, and one at an index")


def check_conditions(leader, follower, collection, versions):
    new, held = b"new", b"empty"
    batch = [
        {"collection": collection, "key": new, "put": {"value": b"1"}},
        {"collection": collection, "key": held, "condition": {"absent": True}, "check": {}},
    ]
    leader.refused(
        grpc.StatusCode.FAILED_PRECONDITION, "condition_failed", "Records", "Batch", writes=batch
    )
    absent = (grpc.StatusCode.NOT_FOUND, "record_not_found", "Records", "Get")
    follower.refused(*absent, collection=collection, key=new)

    batch[1] = {
        "collection": collection,
        "key": held,
        "condition": {"version": versions[held]},
        "delete": {},
    }
    existed = list(leader.call("Records", "Batch", writes=batch).existed)
    check(existed == [False, True], f"the batch says of its keys {existed}")
    follower.refused(*absent, collection=collection, key=held)
    deleted = follower.call("Records", "Delete", collection=collection, key=new)
    check(deleted.existed, "a deleted key did not exist")
    deleted = follower.call("Records", "Delete", collection=collection, key=new)
    check(not deleted.existed, "a key was deleted twice")
    say("conditions hold: a batch was refused whole, another written whole, deletes seen")


def check_refusals(node, collection, credentials):
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    node.refused(invalid, "key_empty", "Records", "Put", collection=collection, key=b"")
    node.refused(invalid, "key_too_large", "Records", "Put", collection=collection, key=b"k" * 5000)
    large = bytes((4 << 20) + 1)
    node.refused(
        invalid, "value_too_large", "Records", "Put", collection=collection, key=b"k", value=large
    )
    nameless = {"namespace": "No Such", "name": "x"}
    node.refused(invalid, "invalid_name", "Records", "Get", collection=nameless, key=b"k")
    node.refused(
        invalid, "cursor_invalid", "Records", "Scan", collection=collection, cursor=b"garbage"
    )
    node.refused(
        invalid, "invalid_argument", "Records", "Scan", collection=collection, limit=2**32 - 1
    )
    elsewhere = {"namespace": "no-such", "name": "x"}
    missing = grpc.StatusCode.NOT_FOUND
    node.refused(missing, "collection_not_found", "Records", "Get", collection=elsewhere, key=b"k")

    stranger = Node(node.address, credentials)
    try:
        stranger.database.get_services()
        raise Difference("reflection answered without a certificate")
    except grpc.RpcError as error:
        code = error.code()
        check(code == grpc.StatusCode.UNAUTHENTICATED, f"without a certificate: {code}")
    # Health is for everybody: it tells nothing but itself.
    check_health(stranger)
    say("bad input and a caller without a certificate are refused, each with its code")


def run(options):
    def read(path):
        with open(path, "rb") as file:
            return file.read()

    ca = read(options.ca)
    credentials = grpc.ssl_channel_credentials(ca, read(options.key), read(options.cert))
    leader = Node(options.leader, credentials)
    follower = Node(options.follower, credentials)
    for node in (leader, follower):
        check_health(node)
        check_services(node)

    namespace = f"python-{os.urandom(4).hex()}"
    collection = {"namespace": namespace, "name": "records"}
    leader.call("Collections", "CreateNamespace", name=namespace)
    created = leader.call("Collections", "CreateCollection", collection=collection).collection
    check(created.incarnation > 0, "the collection's incarnation is 0")
    say(f"created {namespace}/records, incarnation {created.incarnation}")

    expected = expected_records()
    versions = write(leader, collection, expected)
    check_scan(leader, collection, expected, versions)
    check_scan(follower, collection, expected, versions)
    check_reads(follower, collection, expected, versions)
    described = follower.call("Collections", "DescribeCollection", collection=collection).collection
    size = sum(len(key) + len(value) for key, value in expected.items())
    check(described.records == len(expected), f"{described.records} records are counted")
    check(described.bytes == size, f"{described.bytes} bytes are counted, not {size}")
    check_conditions(leader, follower, collection, versions)
    check_refusals(follower, collection, grpc.ssl_channel_credentials(ca))

    full = grpc.StatusCode.FAILED_PRECONDITION
    leader.refused(
        full, "namespace_not_empty", "Collections", "DropNamespace", name=namespace
    )
    leader.call("Collections", "DropCollection", collection=collection)
    leader.call("Collections", "DropNamespace", name=namespace)
    listed = follower.call("Collections", "ListNamespaces").namespaces
    check(namespace not in [each.name for each in listed], f"{namespace} was dropped and is listed")
    say(f"dropped {namespace}; no difference found")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--leader", required=True, help="host:port of the node to write through")
    parser.add_argument("--follower", required=True, help="host:port of the node to read through")
    parser.add_argument("--ca", required=True, help="certificate of the cluster's CA, PEM file")
    parser.add_argument("--cert", required=True, help="client certificate, PEM file")
    parser.add_argument("--key", required=True, help="its private key, PEM file")
    try:
        run(parser.parse_args())
    except Difference as difference:
        print(f"difference: {difference}", file=sys.stderr)
        return 1
    except grpc.RpcError as error:
        print(f"unexpected failure: {error.code()}: {error.details()}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
