"""The protobuf messages in CRIU's image files that are read or changed here.

Only needed fields are declared: the protobuf library keeps all other fields unchanged when a message is decoded, edited
and encoded again. Numbers and wire types are those of the `images/*.proto` files of
https://github.com/checkpoint-restore/criu (4.2). Two declarations differ from them on purpose, with the same bytes on
the wire: text is `bytes`, since file names need not be UTF-8, and enumerations are `uint32`, to keep values added by a
newer CRIU.

`required` fields are checked by `warmstart.dump.criu.entries.decode`, and by the library when a message is encoded.
"""

from __future__ import annotations

import re
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_PACKAGE = "warmstart.criu"

_DECLARATIONS = """
message kernel_ids {
    optional uint32 pid_ns_id = 5;
    optional uint32 net_ns_id = 6;
    optional uint32 ipc_ns_id = 7;
    optional uint32 uts_ns_id = 8;
    optional uint32 mnt_ns_id = 9;
    optional uint32 user_ns_id = 10;
    optional uint32 cgroup_ns_id = 11;
    optional uint32 time_ns_id = 12;
}
message inventory {
    required uint32 img_version = 1;
    optional kernel_ids root_ids = 3;
    optional bool tcp_close = 10;
    optional uint32 network_lock_method = 11;
    optional bytes dump_criu_run_id = 13;
}
message process {
    required uint32 pid = 1;
    required uint32 ppid = 2;
    repeated uint32 threads = 5;
}
message limit {
    required uint64 cur = 1;
    required uint64 max = 2;
}
message task_limits {
    repeated limit limits = 1;
}
message task {
    optional uint32 task_state = 1;
    required bytes comm = 6;
    optional task_limits limits = 8;
    optional uint32 cg_set = 9;
    optional uint32 old_seccomp_mode = 11;
    optional uint32 old_seccomp_filter = 12;
}
message creds {
    optional uint32 uid = 1;
    optional uint32 gid = 2;
    optional uint32 euid = 3;
    optional uint32 egid = 4;
    optional uint32 suid = 5;
    optional uint32 sgid = 6;
    optional uint32 fsuid = 7;
    optional uint32 fsgid = 8;
    repeated uint32 cap_inh = 9;
    repeated uint32 cap_prm = 10;
    repeated uint32 cap_eff = 11;
    repeated uint32 cap_bnd = 12;
    repeated uint32 groups = 14;
    optional bytes lsm_profile = 15;
    optional uint32 no_new_privs = 18;
    repeated uint32 cap_amb = 19;
}
message thread_core {
    optional uint32 pdeath_sig = 8;
    optional creds creds = 10;
    optional uint32 seccomp_mode = 11;
    optional uint32 seccomp_filter = 12;
    optional uint32 cg_set = 16;
}
message seccomp_filter {
    required bytes filter = 1;
    optional uint32 prev = 2;
    optional uint32 flags = 3;
}
message seccomp {
    repeated seccomp_filter seccomp_filters = 1;
}
message x86_registers {
    required uint64 sp = 20;
    required uint64 fs_base = 22;
}
message x86_thread {
    required x86_registers gpregs = 2;
}
message core {
    optional x86_thread thread_info = 2;
    optional task tc = 3;
    optional thread_core thread_core = 5;
}
message vma {
    required uint64 start = 1;
    required uint64 end = 2;
    required uint64 pgoff = 3;
    required uint64 shmid = 4;
    required uint32 prot = 5;
    required uint32 flags = 6;
    required uint32 status = 7;
    required sint64 fd = 8;
    optional uint64 madv = 9;
    optional uint32 fdflags = 10;
}
message mm {
    required uint64 mm_arg_start = 8;
    required uint64 mm_arg_end = 9;
    optional uint64 mm_env_start = 10;
    optional uint64 mm_env_end = 11;
    required uint32 exe_file_id = 12;
    repeated uint64 mm_saved_auxv = 13;
    repeated vma vmas = 14;
}
message dump_stats {
    required uint32 freezing_time = 1;
    required uint32 frozen_time = 2;
}
message stats {
    optional dump_stats dump = 1;
}
message pagemap_head {
    required uint32 pages_id = 1;
}
message pagemap {
    required uint64 vaddr = 1;
    required uint32 compat_nr_pages = 2;
    optional bool in_parent = 3;
    optional uint32 flags = 4;
    optional uint64 nr_pages = 5;
}
message fs {
    required uint32 root_id = 2;
}
message file_owner {
    required uint32 uid = 1;
    required uint32 euid = 2;
    required uint32 signum = 3;
    required uint32 pid_type = 4;
    required uint32 pid = 5;
}
message regular_file {
    required uint32 id = 1;
    required uint32 flags = 2;
    required uint64 pos = 3;
    required file_owner fown = 5;
    required bytes name = 6;
    optional sint32 mnt_id = 7;
    optional uint64 size = 8;
    optional uint32 mode = 10;
}
message socket_options {
    optional bytes so_bound_dev = 15;
}
message inet_socket {
    required uint32 id = 1;
    required uint32 ino = 2;
    required uint32 family = 3;
    required uint32 type = 4;
    required uint32 proto = 5;
    required uint32 state = 6;
    required uint32 src_port = 7;
    required uint32 dst_port = 8;
    optional uint32 backlog = 10;
    repeated uint32 src_addr = 11;
    repeated uint32 dst_addr = 12;
    optional socket_options opts = 14;
    optional bool v6only = 15;
    optional bytes ifname = 17;
    optional uint32 shutdown = 19;
}
message file_permissions {
    required uint32 uid = 2;
    required uint32 gid = 3;
}
message unix_socket {
    optional file_permissions file_perms = 13;
    optional bool deleted = 15;
}
message timer {
    required uint64 ticks = 5;
    required uint64 vsec = 7;
    required uint64 vnsec = 8;
    required uint64 isec = 9;
    required uint64 insec = 10;
}
message file {
    required uint32 type = 1;
    required uint32 id = 2;
    optional regular_file reg = 3;
    optional inet_socket isk = 4;
    optional timer tfd = 12;
    optional unix_socket usk = 16;
}
message descriptor {
    required uint32 id = 1;
    required uint32 flags = 2;
    required uint32 type = 3;
    required uint32 fd = 4;
}
message mount {
    required uint32 fstype = 1;
    required uint32 mnt_id = 2;
    required uint32 root_dev = 3;
    required uint32 parent_mnt_id = 4;
    required bytes root = 6;
    required bytes mountpoint = 7;
    required bytes options = 9;
}
message cgroup_property {
    required bytes name = 1;
    required bytes value = 2;
}
message cgroup_directory {
    required bytes dir_name = 1;
    repeated cgroup_property properties = 3;
}
message cgroup_controller {
    repeated bytes cnames = 1;
    repeated cgroup_directory dirs = 2;
}
message cgroup_member {
    required bytes name = 1;
    required bytes path = 2;
    optional uint32 cgns_prefix = 3;
}
message cgroup_set {
    required uint32 id = 1;
    repeated cgroup_member ctls = 2;
}
message cgroups {
    repeated cgroup_set sets = 1;
    repeated cgroup_controller controllers = 2;
}
message pipe_data {
    required uint32 bytes = 2;
}
message queued_packet {
    required uint32 length = 2;
}
message tcp_stream {
    required uint32 inq_len = 1;
    required uint32 outq_len = 3;
}
message ghost_file {
    optional bool chunks = 9;
}
message ghost_chunk {
    required uint64 len = 1;
}
message ipc_shm {
    required uint64 size = 2;
    optional bool in_pagemaps = 3;
}
message ipc_sem {
    required uint32 nsems = 2;
}
message ipc_msg_queue {
    required uint32 qnum = 3;
}
message ipc_msg {
    required uint32 msize = 2;
}
message bpf_map_data {
    required uint32 keys_bytes = 2;
    required uint32 values_bytes = 3;
}
"""


def _read_declarations() -> FileDescriptorProto:
    file = FileDescriptorProto(name="warmstart/criu.proto", package=_PACKAGE, syntax="proto2")
    for name, body in re.findall(r"message (\w+) \{(.*?)\}", _DECLARATIONS, re.DOTALL):
        message = file.message_type.add(name=name)
        for label, kind, field_name, number in re.findall(r"(\w+) (\w+) (\w+) = (\d+);", body):
            field = message.field.add(name=field_name, number=int(number))
            field.label = FieldDescriptorProto.Label.Value(f"LABEL_{label.upper()}")
            if f"TYPE_{kind.upper()}" in FieldDescriptorProto.Type.keys():  # noqa: SIM118  (it is not a mapping)
                field.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
            else:
                field.type = FieldDescriptorProto.TYPE_MESSAGE
                field.type_name = f".{_PACKAGE}.{kind}"
    return file


_POOL = DescriptorPool()
_POOL.Add(_read_declarations())


def _message_class(name: str) -> Any:
    return GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


# The classes are created at import, so a type checker does not know their attributes: hence Any.
Inventory = _message_class("inventory")
Process = _message_class("process")
Core = _message_class("core")
Seccomp = _message_class("seccomp")
Vma = _message_class("vma")
Mm = _message_class("mm")
Stats = _message_class("stats")
PagemapHead = _message_class("pagemap_head")
Pagemap = _message_class("pagemap")
Fs = _message_class("fs")
File = _message_class("file")
Descriptor = _message_class("descriptor")
Mount = _message_class("mount")
Cgroups = _message_class("cgroups")
PipeData = _message_class("pipe_data")
QueuedPacket = _message_class("queued_packet")
TcpStream = _message_class("tcp_stream")
GhostFile = _message_class("ghost_file")
GhostChunk = _message_class("ghost_chunk")
IpcShm = _message_class("ipc_shm")
IpcSem = _message_class("ipc_sem")
IpcMsgQueue = _message_class("ipc_msg_queue")
IpcMsg = _message_class("ipc_msg")
BpfMapData = _message_class("bpf_map_data")
