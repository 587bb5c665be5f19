"""Numbers of the system calls that the policy names, by architecture. From the kernel's own tables; None: not there.

Calls from Linux 5.1 on (number 424) have one number on every architecture.
"""

from __future__ import annotations

from typing import Final

#: What audit calls the architecture; a filter sees it with every call.
AUDIT_ARCH: Final = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
#: On x86_64 calls of the x32 ABI have this bit.
X32_BIT: Final = 0x4000_0000

#: The last call that the policy was made for (file_setattr of Linux 6.17). What comes later does not exist in a sandbox.
LAST: Final = 469

_TABLE: Final = """
acct 163 89 | add_key 248 217 | adjtimex 159 171 | bpf 321 280 | chmod 90 - | chroot 161 51 | clock_adjtime 305 266
clock_settime 227 112 | clone 56 220 | creat 85 - | create_module 174 - | delete_module 176 106 | execve 59 221
execveat 322 281 | fallocate 285 47 | fanotify_init 300 262 | fanotify_mark 301 263 | fchmod 91 52 | fchmodat 268 53
fcntl 72 25 | finit_module 313 273 | flock 73 32 | fork 57 - | get_kernel_syms 177 - | init_module 175 105 | ioctl 16 29
io_setup 206 0 | ioperm 173 - | iopl 172 - | ioprio_set 251 30 | kcmp 312 272 | kexec_file_load 320 294 | kexec_load 246 104
keyctl 250 219 | kill 62 129 | lookup_dcookie 212 18 | mbind 237 235 | memfd_create 319 279 | migrate_pages 256 238
mknod 133 - | mknodat 259 33 | modify_ldt 154 - | mount 165 40 | move_pages 279 239 | mq_open 240 180 | msgget 68 186
name_to_handle_at 303 264 | nfsservctl 180 42 | open 2 - | open_by_handle_at 304 265 | openat 257 56
perf_event_open 298 241 | personality 135 92 | pivot_root 155 41 | prlimit64 302 261 | process_vm_readv 310 270
process_vm_writev 311 271 | ptrace 101 117 | query_module 178 - | quotactl 179 60 | reboot 169 142
request_key 249 218 | sched_setaffinity 203 122 | sched_setattr 314 274 | sched_setparam 142 118
sched_setscheduler 144 119 | semget 64 190 | set_mempolicy 238 237 | setdomainname 171 162 | sethostname 170 161
setns 308 268 | setpriority 141 140 | settimeofday 164 170 | shmget 29 194 | socket 41 198 | socketpair 53 199
swapoff 168 225 | swapon 167 224 | _sysctl 156 - | sysfs 139 - | syslog 103 116 | umount2 166 39 | unshare 272 97
uselib 134 - | userfaultfd 323 282 | ustat 136 - | vfork 58 - | vhangup 153 58
"""
_EVERYWHERE: Final = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "clone3": 435, "openat2": 437, "pidfd_getfd": 438,
    "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443, "memfd_secret": 447, "set_mempolicy_home_node": 450,
    "fchmodat2": 452, "statmount": 457, "listmount": 458, "lsm_get_self_attr": 459, "lsm_set_self_attr": 460,
    "lsm_list_modules": 461, "open_tree_attr": 467, "file_setattr": 469,
}  # fmt: skip


def numbers(machine: str) -> dict[str, int]:
    """Name to number, without those that the architecture does not have. KeyError for one that is not known."""
    column = {"x86_64": 1, "aarch64": 2}[machine]
    rows = (entry.split() for line in _TABLE.strip().splitlines() for entry in line.split("|"))
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"} | _EVERYWHERE
