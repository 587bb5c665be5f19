/* One process from clone to exec, without a copy of the caller's memory: posix_spawn with what a supervisor needs.

   The child borrows the memory of the caller, which the kernel suspends until the child has exec'd or ended
   (CLONE_VM | CLONE_VFORK). So the child may only make system calls, and leaves word of what failed in `struct plan`.
   The caller prepares everything: nothing is looked up, allocated or converted after the clone. Signals are blocked
   around it, so that no handler of the caller's runs in the child. */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Of <linux/sched.h> and <asm/unistd.h>, whose versions vary; the kernel's numbers do not. */
#define CLONE_VM_FLAG 0x00000100ull
#define CLONE_PIDFD_FLAG 0x00001000ull
#define CLONE_VFORK_FLAG 0x00004000ull
#define CLONE_INTO_CGROUP_FLAG 0x200000000ull
#define CLONE3_NUMBER 435
#define CLOSE_RANGE_NUMBER 436

#define STACK_SIZE (32 * 1024)
#define MAX_LIMITS 16
/* Changed with every change of `spawn`, so that Python code never calls a build of another version. */
#define INTERFACE 2

struct clone_call {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

enum step { NOTHING, CLONE, SESSION, LIMIT, CWD, STDIO, USER, BIND, CLOSE, SIGNALS, EXEC };
static const char *const STEPS[] = {
    "", "clone", "session", "limit", "cwd", "stdio", "user", "bind", "close", "signals", "exec",
};

struct limit {
    int resource;
    struct rlimit value;
};

struct plan {
    char **paths, **argv, **env;
    const char *cwd;
    int stdout_fd, umask; /* umask -1: as it is */
    struct limit limits[MAX_LIMITS];
    int limit_count;
    int change_user;
    uid_t uid;
    gid_t gid, *groups;
    size_t group_count;
    pid_t parent;
    /* What the child says. */
    volatile int step, error, index;
};

static PyObject *Failed;

/* --- the child --- */

static void __attribute__((noreturn)) give_up(struct plan *plan, enum step step, int index)
{
    plan->error = errno;
    plan->index = index;
    plan->step = step;
    for (;;)
        _exit(127);
}

static void set_limits(struct plan *plan)
{
    for (int i = 0; i < plan->limit_count; i++)
        if (setrlimit(plan->limits[i].resource, &plan->limits[i].value) < 0)
            give_up(plan, LIMIT, i);
}

/* 0 reads nothing, 1 and 2 are the same pipe; all sources are above 2 or already in place. */
static void redirect(struct plan *plan)
{
    int null = open("/dev/null", O_RDWR);
    if (null < 0 || (null != 0 && dup2(null, 0) < 0))
        give_up(plan, STDIO, 0);
    if (dup2(plan->stdout_fd, 1) < 0 || dup2(plan->stdout_fd, 2) < 0)
        give_up(plan, STDIO, 1);
}

/* The system calls themselves: libc's wrappers are for all threads of a process. */
static void change_user(struct plan *plan)
{
    if (syscall(SYS_setgroups, plan->group_count, plan->groups) < 0 ||
        syscall(SYS_setresgid, plan->gid, plan->gid, plan->gid) < 0 ||
        syscall(SYS_setresuid, plan->uid, plan->uid, plan->uid) < 0)
        give_up(plan, USER, 0);
}

/* After the change of user, which clears the death signal. A parent that is gone already will not send it. */
static void bind_to_parent(struct plan *plan)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
        give_up(plan, BIND, 0);
    if (getppid() != plan->parent)
        _exit(1);
}

static void close_others(struct plan *plan)
{
    if (syscall(CLOSE_RANGE_NUMBER, 3u, ~0u, 0u) < 0)
        give_up(plan, CLOSE, 0);
}

/* Those of libc itself refuse; they are never changed. */
static void default_signals(struct plan *plan)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigset_t none;
    sigemptyset(&none);
    for (int number = 1; number < NSIG; number++)
        if (number != SIGKILL && number != SIGSTOP)
            sigaction(number, &action, NULL);
    if (sigprocmask(SIG_SETMASK, &none, NULL) < 0)
        give_up(plan, SIGNALS, 0);
}

static int not_here(int error) { return error == ENOENT || error == ENOTDIR; }

/* The first candidate that can be executed; of failures the first, but one of a file that is there says more. */
static void __attribute__((noreturn)) execute(struct plan *plan)
{
    int error = 0, index = 0;
    for (int i = 0; plan->paths[i] != NULL; i++) {
        execve(plan->paths[i], plan->argv, plan->env);
        if (error == 0 || !not_here(errno)) {
            error = errno;
            index = i;
        }
        if (!not_here(errno) && errno != EACCES)
            break;
    }
    errno = error;
    give_up(plan, EXEC, index);
}

static void __attribute__((noreturn, used)) child(struct plan *plan)
{
    if (setsid() < 0)
        give_up(plan, SESSION, 0);
    if (plan->umask >= 0)
        umask((mode_t)plan->umask);
    set_limits(plan);
    if (chdir(plan->cwd) < 0)
        give_up(plan, CWD, 0);
    redirect(plan);
    if (plan->change_user)
        change_user(plan);
    bind_to_parent(plan);
    close_others(plan);
    default_signals(plan);
    execute(plan);
}

/* --- the caller --- */

/* clone3 with a stack of the child's own: it calls child(plan), which does not return. The pid or -errno. */
static long clone_child(struct clone_call *call, struct plan *plan)
{
#if defined(__x86_64__)
    long result;
    register struct plan *argument __asm__("r8") = plan;
    register void (*entry)(struct plan *) __asm__("r9") = child;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "mov %%r8, %%rdi\n\t"
                     "call *%%r9\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(result)
                     : "a"((long)CLONE3_NUMBER), "D"(call), "S"(sizeof *call), "r"(argument), "r"(entry)
                     : "rcx", "r11", "memory", "cc");
    return result;
#elif defined(__aarch64__)
    register long x0 __asm__("x0") = (long)call;
    register long x1 __asm__("x1") = sizeof *call;
    register long x8 __asm__("x8") = CLONE3_NUMBER;
    register struct plan *argument __asm__("x9") = plan;
    register void (*entry)(struct plan *) __asm__("x10") = child;
    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, #0\n\t"
                     "mov x0, x9\n\t"
                     "blr x10\n\t"
                     "brk #0\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x1), "r"(x8), "r"(argument), "r"(entry)
                     : "memory", "cc");
    return x0;
#else
#error "the clone of this architecture is not known here; otpd goes on without this extension"
#endif
}

static void reap(pid_t pid)
{
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

/* The pid, or 0 with plan->step set. */
static pid_t start(struct plan *plan, int cgroup_fd, int *pidfd)
{
    char stack[STACK_SIZE] __attribute__((aligned(16)));
    struct clone_call call = {
        .flags = CLONE_VM_FLAG | CLONE_VFORK_FLAG | CLONE_PIDFD_FLAG,
        .pidfd = (uint64_t)(uintptr_t)pidfd,
        .exit_signal = SIGCHLD,
        .stack = (uint64_t)(uintptr_t)stack,
        .stack_size = sizeof stack,
    };
    sigset_t all, before;
    if (cgroup_fd >= 0) {
        call.flags |= CLONE_INTO_CGROUP_FLAG;
        call.cgroup = (uint64_t)cgroup_fd;
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    long pid = clone_child(&call, plan);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (pid < 0) {
        plan->step = CLONE;
        plan->error = (int)-pid;
        return 0;
    }
    if (plan->step == NOTHING)
        return (pid_t)pid;
    reap((pid_t)pid);
    close(*pidfd);
    return 0;
}

/* --- from Python --- */

/* A NULL-terminated array of the pointers in a tuple of bytes, which must outlive it. */
static char **strings(PyObject *tuple)
{
    Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    char **found = PyMem_New(char *, (size_t)count + 1);
    if (found == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++)
        if (PyBytes_AsStringAndSize(PyTuple_GET_ITEM(tuple, i), &found[i], NULL) < 0) {
            PyMem_Free(found);
            return NULL;
        }
    found[count] = NULL;
    return found;
}

static int read_limits(struct plan *plan, PyObject *limits)
{
    if (PyTuple_GET_SIZE(limits) > MAX_LIMITS) {
        PyErr_Format(PyExc_ValueError, "limits: expected at most %d", MAX_LIMITS);
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(limits); i++) {
        int resource;
        long long soft, hard; /* RLIM_INFINITY is -1 in Python */
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(limits, i), "iLL", &resource, &soft, &hard))
            return -1;
        plan->limits[plan->limit_count++] = (struct limit){resource, {(rlim_t)soft, (rlim_t)hard}};
    }
    return 0;
}

static int read_user(struct plan *plan, PyObject *user)
{
    PyObject *groups;
    unsigned uid, gid;
    if (user == Py_None)
        return 0;
    if (!PyTuple_Check(user)) {
        PyErr_SetString(PyExc_TypeError, "user: expected (uid, gid, groups) or None");
        return -1;
    }
    if (!PyArg_ParseTuple(user, "IIO!", &uid, &gid, &PyTuple_Type, &groups))
        return -1;
    plan->change_user = 1;
    plan->uid = uid;
    plan->gid = gid;
    plan->group_count = (size_t)PyTuple_GET_SIZE(groups);
    plan->groups = PyMem_New(gid_t, plan->group_count + 1);
    if (plan->groups == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < plan->group_count; i++) {
        unsigned long group = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(groups, (Py_ssize_t)i));
        if (group == (unsigned long)-1 && PyErr_Occurred())
            return -1;
        plan->groups[i] = (gid_t)group;
    }
    return 0;
}

static PyObject *outcome(struct plan *plan, int cgroup_fd)
{
    int pidfd = -1;
    pid_t pid = start(plan, cgroup_fd, &pidfd);
    if (pid > 0)
        return Py_BuildValue("ii", pid, pidfd);
    PyObject *what = Py_BuildValue("sii", STEPS[plan->step], plan->error, plan->index);
    if (what != NULL)
        PyErr_SetObject(Failed, what);
    Py_XDECREF(what);
    return NULL;
}

PyDoc_STRVAR(spawn_doc, "Start a process and give (pid, pidfd) when it has exec'd; Failed(step, errno, index).");

static PyObject *spawn(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *paths, *argv, *env, *limits, *user, *result = NULL;
    struct plan plan = {0};
    int cgroup_fd;
    if (!PyArg_ParseTuple(args, "O!O!O!yiiiO!Oi:spawn", &PyTuple_Type, &paths, &PyTuple_Type, &argv, &PyTuple_Type,
                          &env, &plan.cwd, &plan.stdout_fd, &cgroup_fd, &plan.umask, &PyTuple_Type, &limits, &user,
                          &plan.parent))
        return NULL;
    if (plan.stdout_fd <= 2 || PyTuple_GET_SIZE(paths) == 0 || PyTuple_GET_SIZE(argv) == 0) {
        PyErr_SetString(PyExc_ValueError, "expected stdout_fd above 2, a path and an argument 0");
        return NULL;
    }
    if (read_limits(&plan, limits) == 0 && read_user(&plan, user) == 0 &&
        (plan.paths = strings(paths)) != NULL && (plan.argv = strings(argv)) != NULL && (plan.env = strings(env)) != NULL)
        result = outcome(&plan, cgroup_fd);
    PyMem_Free(plan.paths);
    PyMem_Free(plan.argv);
    PyMem_Free(plan.env);
    PyMem_Free(plan.groups);
    return result;
}

static PyMethodDef methods[] = {{"spawn", spawn, METH_VARARGS, spawn_doc}, {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "otpd.supervisor._spawn", .m_size = -1, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__spawn(void)
{
    PyObject *made = PyModule_Create(&module);
    if (made == NULL)
        return NULL;
    Failed = PyErr_NewExceptionWithDoc("otpd.supervisor._spawn.Failed", "Args: step, errno, index of what it was about.",
                                       NULL, NULL);
    if (Failed == NULL || PyModule_AddObjectRef(made, "Failed", Failed) < 0 ||
        PyModule_AddIntConstant(made, "INTERFACE", INTERFACE) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
