/* The nest in C: makes slots, as nest.py and lockdown.py do, with the same plans, the same packets and the same order of steps.
   A program, not an extension: its forks copy a few hundred kilobytes instead of an interpreter, which is most of the time.

       otpd-nest CONTROL PROC BASE     pid 1 of a worker's namespaces, after template.py has built them
       otpd-nest --init SLOT BASE      one slot in namespaces that somebody else has made (bwrap)

   CONTROL, SLOT: SOCK_SEQPACKET sockets; PROC: a descriptor of /proc, or -1; BASE: a file with the base plan. Nothing is read but
   plans, which the worker has made; whatever fails is reported on the socket, with the step, the record and errno. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Of kernel headers whose versions vary; the numbers do not. */
#define NEWNS 0x00020000
#define NEWIPC 0x08000000
#define NEWUSER 0x10000000
#define NEWPID 0x20000000
#define NR_pidfd_open 434
#define NR_open_tree 428
#define NR_move_mount 429
#define NR_close_range 436
#define NR_openat2 437
#define NR_mount_setattr 442
#define NR_landlock_create 444
#define NR_landlock_add 445
#define NR_landlock_restrict 446
#define TREE_CLONE 1
#define EMPTY_PATH 0x1000
#define RECURSIVE 0x8000
#define ATTR_RDONLY 1
#define FROM_AND_TO_EMPTY 0x44
#define RESOLVE_STRICT 0x06 /* no symbolic links, no magic links */
#define RESOLVE_BENEATH_IT 0x08

/* As records.py has them. */
enum kind {
    NEW_ROOT = 1, DIRECTORY, LINK, BIND, TMPFS, PROC_MOUNT, PIVOT, SYSCTL, USER_SYSCTL, IDENTITY, READ_ONLY, PRIVATE_MOUNTS,
    OUT_OF_MEMORY, SEAL, NICE,
    MOUNT = 32, PROTECT,
    ARGUMENT = 40, VARIABLE, PROGRAM, DIRECTORY_OF_WORK, LIMIT, FILTER, LANDLOCK, ALLOW, FILE_CONTENT, CODE,
};
enum step {
    NONE, ROOT, SYSCTL_STEP, NAMESPACE, MOUNT_STEP, PROTECT_STEP, LIMIT_STEP, DIRECTORY_STEP, FILE_STEP, LANDLOCK_STEP, SECCOMP,
    PRIVILEGES, EXEC, PLAN, PROTOCOL,
};
enum word { READY = 1, FAILED, ENDED };
struct report {
    uint8_t word, step;
    uint16_t index;
    int32_t error, status, pid;
    uint64_t user_us, system_us, peak_kib;
};

/* What a nest says first; nest.py says why. */
#define GREETING "nest 1"

/* Where each process keeps its socket, /proc of the nest while it needs it, and the command what outlives it. */
enum { SOCKET = 3, PROC = 4, KEEP = 5, FREE = 6 };
#define MAX_FDS 253
#define MAX_BINDS 256
#define PATH_ROOM 4096

struct plan {
    const unsigned char *bytes;
    size_t size;
};
struct record {
    unsigned index; /* from 1 */
    uint16_t kind, flags;
    const unsigned char *payload;
    size_t length;
};

/* --- saying what happened --- */

static void fail(enum step step, unsigned index)
{
    struct report report = {.word = FAILED, .step = step, .index = index, .error = errno ? errno : EIO};
    send(SOCKET, &report, sizeof report, MSG_NOSIGNAL);
    _exit(127);
}

static long checked(long result, enum step step, unsigned index)
{
    if (result < 0)
        fail(step, index);
    return result;
}

/* --- plans --- */

static struct plan read_plan(int fd)
{
    struct stat about;
    struct plan plan;
    checked(fstat(fd, &about), PLAN, 0);
    plan.size = about.st_size;
    plan.bytes = (const unsigned char *)"";
    if (plan.size == 0)
        return plan;
    plan.bytes = mmap(NULL, plan.size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (plan.bytes == MAP_FAILED)
        fail(PLAN, 0);
    return plan;
}

/* The next record; `place` begins at 0 and `record->index` at 0. 0 at the end. */
static int next(struct plan plan, size_t *place, struct record *record)
{
    uint32_t length;
    if (*place == plan.size)
        return 0;
    errno = EPROTO;
    if (plan.size - *place < 8)
        fail(PLAN, record->index + 1);
    memcpy(&record->kind, plan.bytes + *place, 2);
    memcpy(&record->flags, plan.bytes + *place + 2, 2);
    memcpy(&length, plan.bytes + *place + 4, 4);
    *place += 8;
    if (plan.size - *place < length)
        fail(PLAN, record->index + 1);
    record->payload = plan.bytes + *place;
    record->length = length;
    record->index++;
    *place += length;
    return 1;
}

#define EACH(plan, record) \
    struct record record = {0}; \
    for (size_t place_ = 0; next(plan, &place_, &record);)

static const char *text(const struct record *record)
{
    return (const char *)record->payload;
}

static const char *second_text(const struct record *record)
{
    return text(record) + strlen(text(record)) + 1;
}

static int64_t number(const struct record *record)
{
    int64_t value;
    memcpy(&value, record->payload, sizeof value);
    return value;
}

/* --- descriptors over sockets --- */

static int send_fds(int to, const void *bytes, size_t size, const int *fds, unsigned count)
{
    union {
        char room[CMSG_SPACE(sizeof(int) * 8)];
        struct cmsghdr align;
    } control;
    struct iovec vector = {(void *)bytes, size};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    if (count) {
        message.msg_control = control.room;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(head), fds, sizeof(int) * count);
    }
    return sendmsg(to, &message, MSG_NOSIGNAL);
}

/* How many descriptors came; -1: the other end is gone. */
static int receive_fds(int from, int *fds, unsigned room)
{
    char byte;
    union {
        char room[CMSG_SPACE(sizeof(int) * MAX_FDS)];
        struct cmsghdr align;
    } control;
    struct iovec vector = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = CMSG_SPACE(sizeof(int) * room)};
    ssize_t got;
    do
        got = recvmsg(from, &message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got <= 0)
        return -1;
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (head == NULL || head->cmsg_type != SCM_RIGHTS)
        return 0;
    unsigned count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(fds, CMSG_DATA(head), sizeof(int) * count);
    return count;
}

/* --- small things of both processes --- */

static int write_at(int directory, const char *path, const char *value)
{
    int fd = openat(directory, path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t wrote = write(fd, value, strlen(value));
    int kept = errno;
    close(fd);
    errno = kept;
    return wrote < 0 ? -1 : 0;
}

static int write_sysctl(const struct record *record)
{
    char path[PATH_ROOM];
    snprintf(path, sizeof path, "sys/%s", text(record));
    return write_at(PROC, path, second_text(record));
}

/* `mkdir -p`; with `parents`, of what holds `path`. */
static int make_directories(const char *path, mode_t mode, int parents)
{
    char part[PATH_ROOM];
    size_t length = strlen(path);
    if (length >= sizeof part) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(part, path, length + 1);
    for (size_t at = 1; at <= length; at++) {
        if (part[at] != '/' && (part[at] != '\0' || parents))
            continue;
        char kept = part[at];
        part[at] = '\0';
        if (mkdir(part, mode) < 0 && errno != EEXIST && errno != EROFS)
            return -1;
        part[at] = kept;
    }
    return 0;
}

static int open_strictly(int at, const char *path, int flags, uint64_t resolve)
{
    uint64_t how[3] = {flags | O_CLOEXEC, 0, resolve};
    return syscall(NR_openat2, at, path, how, sizeof how);
}

static int set_read_only(int at, const char *path, unsigned flags)
{
    uint64_t attributes[4] = {ATTR_RDONLY, 0, 0, 0};
    return syscall(NR_mount_setattr, at, path, flags, attributes, sizeof attributes);
}

/* --- the root of a slot --- */

/* Mount `tree` at `path`, which is made if it is missing, and reached without a symbolic link. */
static int attach(int tree, const char *path, int file)
{
    if (make_directories(path, 0755, file) < 0)
        return -1;
    if (file) {
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
        if (fd >= 0)
            close(fd);
        else if (errno != EEXIST && errno != EROFS)
            return -1;
    }
    int place = open_strictly(AT_FDCWD, path, O_PATH, RESOLVE_STRICT);
    if (place < 0 || syscall(NR_move_mount, tree, "", place, "", FROM_AND_TO_EMPTY) < 0)
        return -1;
    close(place);
    close(tree);
    return 0;
}

static int pivot(void)
{
    if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0)
        return -1;
    return chdir("/");
}

static int new_root(const struct record *record)
{
    if (mount("tmpfs", text(record), "tmpfs", MS_NOSUID | MS_NODEV, second_text(record)) < 0)
        return -1;
    return chdir(text(record));
}

static int mount_at(const char *kind, const char *path, unsigned long flags, const char *options)
{
    if (make_directories(path, 0755, 0) < 0)
        return -1;
    return mount(kind, path, kind, MS_NOSUID | MS_NODEV | flags, options);
}

/* Mount `path` on itself, read-only. */
static int seal(const char *path)
{
    int place = open(path, O_PATH | O_CLOEXEC);
    int tree = place < 0 ? -1 : syscall(NR_open_tree, place, "", TREE_CLONE | O_CLOEXEC | RECURSIVE | EMPTY_PATH);
    if (tree < 0 || set_read_only(tree, "", EMPTY_PATH | RECURSIVE) < 0)
        return -1;
    if (syscall(NR_move_mount, tree, "", place, "", FROM_AND_TO_EMPTY) < 0)
        return -1;
    close(place);
    return close(tree);
}

static int build_one(const struct record *record, int tree)
{
    switch (record->kind) {
    case NEW_ROOT: return new_root(record);
    case DIRECTORY: return make_directories(text(record), record->flags, 0);
    case LINK: return symlink(second_text(record), text(record));
    case BIND: return attach(tree, second_text(record), record->flags);
    case TMPFS: return mount_at("tmpfs", text(record), 0, second_text(record));
    case PROC_MOUNT: return mount_at("proc", text(record), MS_NOEXEC, "");
    case SEAL: return seal(text(record));
    case PIVOT: return pivot();
    }
    return 0;
}

/* Carry out the base plan. Bits: which SYSCTL could not be set. */
static uint32_t build(struct plan base)
{
    int trees[MAX_BINDS], bound = 0, used = 0, count = 0;
    uint32_t unset = 0;
    {
        EACH(base, record) {
            if (record.kind != BIND)
                continue;
            errno = E2BIG;
            checked(bound < MAX_BINDS ? 0 : -1, ROOT, record.index);
            long tree = syscall(NR_open_tree, AT_FDCWD, text(&record), TREE_CLONE | O_CLOEXEC | RECURSIVE);
            trees[bound++] = checked(tree, ROOT, record.index);
        }
    }
    EACH(base, record) {
        if (record.kind != SYSCTL)
            checked(build_one(&record, record.kind == BIND ? trees[used++] : -1), ROOT, record.index);
        else if (count++, write_sysctl(&record) < 0)
            unset |= 1u << (count - 1);
    }
    return unset;
}

/* --- the process that becomes the command --- */

static void own_user_namespace(int64_t identity)
{
    char map[64];
    unsigned uid = geteuid(), gid = getegid();
    checked(unshare(NEWUSER), NAMESPACE, 0);
    checked(write_at(PROC, "self/setgroups", "deny"), NAMESPACE, 0);
    snprintf(map, sizeof map, "%u %u 1", (unsigned)(identity >> 32), uid);
    checked(write_at(PROC, "self/uid_map", map), NAMESPACE, 0);
    snprintf(map, sizeof map, "%u %u 1", (unsigned)identity, gid);
    checked(write_at(PROC, "self/gid_map", map), NAMESPACE, 0);
}

static void out_of_memory(int64_t score)
{
    char value[32];
    snprintf(value, sizeof value, "%lld", (long long)score);
    checked(write_at(PROC, "self/oom_score_adj", value), LIMIT_STEP, 0);
}

/* No capability can be gained by exec. */
static void drop_bounding_set(void)
{
    for (int capability = 0; capability < 64; capability++)
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0) {
            if (errno != EINVAL && errno != EPERM)
                fail(PRIVILEGES, 0);
            return;
        }
}

static uint32_t prepare(struct plan base)
{
    uint32_t unset = 0;
    int count = 0;
    setsid();
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* else it may not write to its own /proc/self; nobody is there to make use of it */
    {
        EACH(base, record) {
            if (record.kind == IDENTITY)
                own_user_namespace(number(&record));
            else if (record.kind == NICE)
                (void)!nice(number(&record));
            else if (record.kind == OUT_OF_MEMORY)
                out_of_memory(number(&record));
        }
    }
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    EACH(base, record) {
        if (record.kind == USER_SYSCTL && (count++, write_sysctl(&record) < 0))
            unset |= 1u << (count - 1);
    }
    drop_bounding_set();
    return unset;
}

static int drop_capabilities(void)
{
    struct {
        uint32_t version;
        int pid;
    } head = {0x20080522, 0};
    uint32_t none[6] = {0};
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
        return -1;
    return syscall(SYS_capset, &head, none);
}

/* A limit is lowered, never raised over what the host allows itself. */
static int set_limit(const struct record *record)
{
    uint32_t which;
    uint64_t soft, hard;
    struct rlimit now;
    memcpy(&which, record->payload, 4);
    memcpy(&soft, record->payload + 4, 8);
    memcpy(&hard, record->payload + 12, 8);
    if (getrlimit(which, &now) < 0)
        return -1;
    now.rlim_max = hard < now.rlim_max ? hard : now.rlim_max;
    now.rlim_cur = soft < now.rlim_max ? soft : now.rlim_max;
    return setrlimit(which, &now);
}

static int write_file(const struct record *record)
{
    const char *content = second_text(record), *end = text(record) + record->length;
    if (make_directories(text(record), 0777, 1) < 0)
        return -1;
    int fd = open(text(record), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, record->flags);
    while (fd >= 0 && content < end) {
        ssize_t wrote = write(fd, content, end - content);
        if (wrote < 0)
            return -1;
        content += wrote;
    }
    return fd < 0 ? -1 : close(fd);
}

static int landlock(const struct record *rules, struct plan plan)
{
    uint64_t handled[3];
    memcpy(handled, rules->payload, sizeof handled);
    size_t size = handled[2] ? 24 : handled[1] ? 16 : 8;
    int ruleset = syscall(NR_landlock_create, handled, size, 0);
    if (ruleset < 0)
        return -1;
    EACH(plan, record) {
        struct {
            uint64_t rights;
            int32_t place;
        } __attribute__((packed)) rule;
        if (record.kind != ALLOW)
            continue;
        memcpy(&rule.rights, record.payload, 8);
        rule.place = open((const char *)record.payload + 8, O_PATH | O_CLOEXEC);
        if (rule.place < 0 && errno == ENOENT)
            continue; /* what is not there can't be reached either */
        if (rule.place < 0 || syscall(NR_landlock_add, ruleset, 1, &rule, 0) < 0)
            return -1;
        close(rule.place);
    }
    if (syscall(NR_landlock_restrict, ruleset, 0) < 0)
        return -1;
    return close(ruleset);
}

static int filter(const struct record *record)
{
    /* The kernel copies it; where it lies in the plan it may not be aligned. */
    struct sock_filter *code = malloc(record->length);
    struct sock_fprog program = {record->length / sizeof *code, code};
    if (code == NULL)
        return -1;
    memcpy(code, record->payload, record->length);
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

static int carry_out(const struct record *record, struct plan plan)
{
    switch (record->kind) {
    case DIRECTORY_OF_WORK: return chdir(text(record));
    case FILE_CONTENT: return write_file(record);
    case LIMIT: return set_limit(record);
    case LANDLOCK: return landlock(record, plan);
    case FILTER: return filter(record);
    }
    return 0;
}

static char **gather(struct plan plan, enum kind kind)
{
    size_t count = 0;
    {
        EACH(plan, record) count += record.kind == kind;
    }
    char **found = calloc(count + 1, sizeof *found);
    if (found == NULL)
        fail(PLAN, 0);
    count = 0;
    EACH(plan, record) {
        if (record.kind == kind)
            found[count++] = (char *)record.payload;
    }
    return found;
}

/* Becomes the command, or says why not: EACCES wins over ENOENT, as in a shell. */
static void start(struct plan plan)
{
    char **arguments = gather(plan, ARGUMENT), **variables = gather(plan, VARIABLE);
    int problem = ENOENT;
    unsigned index = 0;
    EACH(plan, record) {
        if (record.kind != PROGRAM)
            continue;
        execve(text(&record), arguments, variables);
        if (errno != ENOENT && errno != ENOTDIR) {
            problem = errno;
            index = record.index;
            if (errno != EACCES)
                break;
        }
    }
    errno = problem;
    fail(EXEC, index);
}

/* Mounts of its own, in which nothing of the slot's can be undone. Their namespace is kept by a descriptor on its way through a socket
   that nobody reads, so that it is taken apart when the init ends and not, while somebody waits, when the command does. */
static void own_mounts(void)
{
    checked(unshare(NEWNS), NAMESPACE, 0);
    int mounts = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    if (mounts >= 0)
        send_fds(KEEP, "+", 1, &mounts, 1);
}

static void become(int plan_fd, const int *streams, int private_mounts)
{
    /* Rights go last, so that each step still may do its work. */
    static const enum step steps[] = {DIRECTORY_STEP, FILE_STEP, LIMIT_STEP, LANDLOCK_STEP, SECCOMP};
    static const enum kind order[] = {DIRECTORY_OF_WORK, FILE_CONTENT, LIMIT, LANDLOCK, FILTER};
    struct plan plan = read_plan(plan_fd);
    for (int target = 0; target < 3; target++)
        checked(dup2(streams[target], target), PROTOCOL, 0);
    if (private_mounts)
        own_mounts();
    checked(syscall(NR_close_range, PROC, ~0u, 0), PROTOCOL, 0);
    umask(022);
    checked(drop_capabilities(), PRIVILEGES, 0);
    checked(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), PRIVILEGES, 0);
    for (size_t at = 0; at < sizeof order / sizeof *order; at++) {
        EACH(plan, record) {
            if (record.kind == order[at])
                checked(carry_out(&record, plan), steps[at], record.index);
            errno = ENOTSUP; /* source code is for the nest in Python */
            if (record.kind == CODE)
                fail(PLAN, record.index);
        }
    }
    start(plan);
}

static void be_command(struct plan base)
{
    struct report report = {.word = READY};
    int fds[4], private_mounts = 0;
    report.pid = prepare(base);
    EACH(base, record) private_mounts |= record.kind == PRIVATE_MOUNTS;
    send(SOCKET, &report, sizeof report, MSG_NOSIGNAL);
    if (receive_fds(SOCKET, fds, 4) == 4)
        become(fds[0], fds + 1, private_mounts);
    _exit(127);
}

/* --- the init of a slot --- */

/* `slot` and `proc` at their places, nothing else open. */
static void arrange(int slot, int proc)
{
    int high_slot = fcntl(slot, F_DUPFD_CLOEXEC, FREE), high_proc = proc < 0 ? -1 : fcntl(proc, F_DUPFD_CLOEXEC, FREE);
    dup3(high_slot, SOCKET, O_CLOEXEC);
    if (high_proc >= 0)
        dup3(high_proc, PROC, O_CLOEXEC);
    syscall(NR_close_range, high_proc >= 0 ? KEEP : PROC, ~0u, 0);
}

static pid_t fork_command(struct plan base, int *link)
{
    int pair[2], kept[2];
    checked(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), PROTOCOL, 0);
    checked(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, kept), PROTOCOL, 0);
    pid_t pid = checked(fork(), NAMESPACE, 0);
    if (pid == 0) {
        dup3(pair[1], SOCKET, O_CLOEXEC);
        dup3(kept[1], KEEP, O_CLOEXEC);
        syscall(NR_close_range, FREE, ~0u, 0);
        be_command(base);
    }
    close(pair[1]);
    close(kept[1]); /* the other end stays open until the end of the init */
    *link = pair[0];
    return pid;
}

/* `path` beneath `grant` becomes read-only. Each directory between is mounted on itself: what is a mount can't be moved. */
static int protect(const char *grant, const char *path)
{
    char part[PATH_ROOM];
    size_t length = strlen(path);
    int top = open_strictly(AT_FDCWD, grant, O_PATH | O_DIRECTORY, RESOLVE_STRICT);
    if (top < 0 || length >= sizeof part)
        return -1;
    memcpy(part, path, length + 1);
    for (size_t at = 1; at <= length; at++) {
        if (part[at] != '/' && part[at] != '\0')
            continue;
        part[at] = '\0';
        int place = open_strictly(top, part, O_PATH, RESOLVE_STRICT | RESOLVE_BENEATH_IT);
        int tree = place < 0 ? -1 : syscall(NR_open_tree, place, "", TREE_CLONE | O_CLOEXEC | RECURSIVE | EMPTY_PATH);
        if (tree < 0 || (at == length && set_read_only(tree, "", EMPTY_PATH | RECURSIVE) < 0))
            return -1;
        if (syscall(NR_move_mount, tree, "", place, "", FROM_AND_TO_EMPTY) < 0)
            return -1;
        close(place);
        close(tree);
        if (at < length)
            part[at] = '/';
    }
    return close(top);
}

static void attach_grants(int plan_fd, const int *trees, unsigned count)
{
    struct plan plan = read_plan(plan_fd);
    EACH(plan, record) {
        uint32_t which;
        if (record.kind == PROTECT)
            checked(protect(text(&record), second_text(&record)), PROTECT_STEP, record.index);
        else if (record.kind != MOUNT)
            return; /* they stand at the beginning */
        if (record.kind != MOUNT)
            continue;
        memcpy(&which, record.payload, 4);
        errno = EPROTO;
        checked(which < count ? 0 : -1, PLAN, record.index);
        checked(attach(trees[which], (const char *)record.payload + 4, record.flags), MOUNT_STEP, record.index);
    }
}

static void say_ready(pid_t pid, uint32_t unset, uint32_t user_unset)
{
    struct report report = {.word = READY, .status = unset, .pid = user_unset};
    int fds[2] = {checked(syscall(NR_pidfd_open, pid, 0), PROTOCOL, 0), open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    checked(send_fds(SOCKET, &report, sizeof report, fds, fds[1] < 0 ? 1 : 2), PROTOCOL, 0);
    close(fds[0]);
    if (fds[1] >= 0)
        close(fds[1]);
}

/* The wait status of `pid`. Afterwards nothing else of the slot is alive. Only ever called by pid 1 of a namespace, where -1 is
   what runs in it. */
static int outlive(pid_t pid)
{
    int status = 0, other;
    pid_t found;
    while ((found = waitpid(-1, &status, 0)) != pid)
        if (found < 0 && errno != EINTR)
            fail(PROTOCOL, 0);
    do
        kill(-1, SIGKILL);
    while (waitpid(-1, &other, 0) >= 0 || errno == EINTR);
    return status;
}

static void report_end(int link, pid_t pid, int status)
{
    struct report report;
    struct rusage used;
    if (recv(link, &report, sizeof report, MSG_DONTWAIT) != sizeof report) {
        getrusage(RUSAGE_CHILDREN, &used);
        report = (struct report){
            .word = ENDED, .status = status, .pid = pid,
            .user_us = used.ru_utime.tv_sec * 1000000ull + used.ru_utime.tv_usec,
            .system_us = used.ru_stime.tv_sec * 1000000ull + used.ru_stime.tv_usec,
            .peak_kib = used.ru_maxrss};
    }
    send(SOCKET, &report, sizeof report, MSG_NOSIGNAL);
}

static void be_init(int slot, int proc, struct plan base)
{
    struct report prepared;
    int link, fds[MAX_FDS];
    signal(SIGCHLD, SIG_DFL);
    arrange(slot, proc);
    errno = EPERM;
    checked(getpid() == 1 ? 0 : -1, NAMESPACE, 0);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    uint32_t unset = build(base);
    pid_t pid = fork_command(base, &link);
    errno = ESRCH;
    if (recv(link, &prepared, sizeof prepared, 0) != sizeof prepared)
        fail(PROTOCOL, 0);
    if (prepared.word != READY) {
        send(SOCKET, &prepared, sizeof prepared, MSG_NOSIGNAL);
        _exit(1);
    }
    say_ready(pid, unset, prepared.pid);
    int count = receive_fds(SOCKET, fds, MAX_FDS);
    if (count < 4)
        _exit(0);
    attach_grants(fds[0], fds + 4, count - 4);
    EACH(base, record) {
        if (record.kind == READ_ONLY)
            checked(set_read_only(AT_FDCWD, text(&record), 0), ROOT, record.index);
    }
    checked(send_fds(link, "+", 1, fds, 4), PROTOCOL, 0);
    for (int at = 0; at < 4; at++)
        close(fds[at]);
    report_end(link, pid, outlive(pid));
    _exit(0);
}

/* --- the nest --- */

/* Nothing is ignored or blocked in what starts here, whatever the interpreter before us liked. By the kernel's own call:
   libc lets nobody touch the two signals that it uses itself, and its posix_spawn() leaves them ignored. */
static void fresh_signals(void)
{
    static const unsigned long by_default[8];
    sigset_t none;
    for (int number_ = 1; number_ < NSIG; number_++)
        syscall(SYS_rt_sigaction, number_, by_default, NULL, 8L);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void serve(int control, int proc, struct plan base)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    if (send(control, GREETING, strlen(GREETING), MSG_NOSIGNAL) < 0)
        _exit(0);
    signal(SIGCHLD, SIG_IGN); /* slots are reaped by the kernel */
    for (;;) {
        int slot;
        if (receive_fds(control, &slot, 1) != 1)
            _exit(0);
        pid_t pid = syscall(SYS_clone, NEWPID | NEWNS | NEWIPC | SIGCHLD, 0, 0, 0, 0);
        if (pid == 0)
            be_init(slot, proc, base);
        close(slot);
        int pidfd = pid < 0 ? -1 : syscall(NR_pidfd_open, pid, 0);
        if (pidfd < 0 || send_fds(control, "+", 1, &pidfd, 1) < 0)
            _exit(1);
        close(pidfd);
    }
}

int main(int argc, char **argv)
{
    fresh_signals();
    if (argc == 4 && strcmp(argv[1], "--init") == 0)
        be_init(atoi(argv[2]), open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC), read_plan(atoi(argv[3])));
    if (argc != 4) {
        fprintf(stderr, "otpd-nest: started by otpd's command workers, not by hand\n");
        return 2;
    }
    int control = atoi(argv[1]), base = atoi(argv[3]);
    fcntl(control, F_SETFD, FD_CLOEXEC);
    struct plan plan = read_plan(base);
    close(base);
    serve(control, atoi(argv[2]), plan);
}
