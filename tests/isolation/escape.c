/* Attempts to get out of a task, each one system call or two. Prints "name RESULT" a line, where the result is
 * the errno's name, or "ok" if the attempt succeeded. Where success would harm the node the arguments are such
 * that the kernel refuses them after it has looked at rights: then anything but EPERM means that the call itself
 * would have been let through.
 *
 * Usage: escape GROUP. What the attempts aim at comes in the environment (HOST_PID, HANDLE, KEY, ABSTRACT). */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>

static void said(const char *name, long result) {
    static const struct { int number; const char *name; } names[] = {
        {EPERM, "EPERM"}, {ENOENT, "ENOENT"}, {ESRCH, "ESRCH"}, {EACCES, "EACCES"}, {EROFS, "EROFS"},
        {EINVAL, "EINVAL"}, {ENOSYS, "ENOSYS"}, {EFAULT, "EFAULT"}, {EBADF, "EBADF"}, {ENODEV, "ENODEV"},
        {ENOTDIR, "ENOTDIR"}, {EXDEV, "EXDEV"}, {ECONNREFUSED, "ECONNREFUSED"}, {ENOTTY, "ENOTTY"},
        {EAFNOSUPPORT, "EAFNOSUPPORT"}, {ENXIO, "ENXIO"}, {EIO, "EIO"}, {ETXTBSY, "ETXTBSY"},
        {ENOTBLK, "ENOTBLK"}, {EBUSY, "EBUSY"}, {EOPNOTSUPP, "EOPNOTSUPP"}, {ENOEXEC, "ENOEXEC"},
        {ESTALE, "ESTALE"}, {EPROTONOSUPPORT, "EPROTONOSUPPORT"}, {EAGAIN, "EAGAIN"}, {ENOSPC, "ENOSPC"},
    };
    if (result >= 0) {
        printf("%s ok\n", name);
        return;
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].number == errno) {
            printf("%s %s\n", name, names[i].name);
            return;
        }
    printf("%s %d\n", name, errno);
}

#define CALL(name, ...) said(name, syscall(__VA_ARGS__))

static void calls(void) {
    static char buffer[4096];
    static const uint64_t nothing[16];
    CALL("add_key", SYS_add_key, "user", "swarmpy", "x", 1, -3);
    CALL("request_key", SYS_request_key, "user", "swarmpy", 0, 0);
    CALL("keyctl", SYS_keyctl, 0, -3, 0);
    CALL("bpf", SYS_bpf, 0, nothing, 0);
    CALL("perf_event_open", SYS_perf_event_open, 0, 0, -1, -1, 0);
    CALL("userfaultfd", SYS_userfaultfd, 0);
    CALL("io_uring_setup", 425, 1, buffer);
    CALL("init_module", SYS_init_module, buffer, 0, "");
    CALL("finit_module", SYS_finit_module, -1, "", 0);
    CALL("delete_module", SYS_delete_module, "swarmpy_none", O_NONBLOCK);
    CALL("kexec_load", SYS_kexec_load, 0, 0, 0, ~0ul);
    CALL("reboot", SYS_reboot, 0, 0, 0, 0);
    CALL("settimeofday", SYS_settimeofday, 8, 0);
    CALL("clock_settime", SYS_clock_settime, 0, 8);
    CALL("adjtimex", SYS_adjtimex, 8);
    CALL("swapon", SYS_swapon, "/none", 0);
    CALL("swapoff", SYS_swapoff, "/none");
    CALL("quotactl", SYS_quotactl, ~0, "/none", 0, 0);
    CALL("acct", SYS_acct, "/none");
    CALL("syslog", SYS_syslog, 3, buffer, sizeof buffer);
    CALL("lookup_dcookie", SYS_lookup_dcookie, 0, buffer, sizeof buffer);
    CALL("fanotify_init", SYS_fanotify_init, 0, 0);
    CALL("name_to_handle", SYS_name_to_handle_at, AT_FDCWD, "/none", buffer, buffer, 0);
    CALL("vhangup", SYS_vhangup);
    CALL("personality", SYS_personality, 0x0400000);
    CALL("kcmp", SYS_kcmp, 1, 1, 0, 0, 0);
    CALL("pidfd_getfd", 438, -1, 0, 0);
    CALL("move_pages", SYS_move_pages, 0, 0, 0, 0, 0, 0);
    CALL("sethostname", SYS_sethostname, "escaped", 7);
    CALL("chroot", SYS_chroot, "/none");
#ifdef __x86_64__
    CALL("iopl", SYS_iopl, 4);
    CALL("ioperm", SYS_ioperm, 0x80, 1, 1);
    CALL("nfsservctl", SYS_nfsservctl, 0, 0, 0);
    CALL("uselib", SYS_uselib, "/none");
    CALL("sysfs", SYS_sysfs, 3);
#endif
}

static void mounts(void) {
    said("mount_tmpfs", mount("none", "/tmp", "tmpfs", 0, ""));
    said("mount_proc", mount("none", "/tmp", "proc", 0, ""));
    said("mount_cgroup", mount("none", "/tmp", "cgroup", 0, "rdma"));
    said("mount_bind", mount("/", "/tmp", "", MS_BIND, ""));
    said("remount_proc_sys", mount("", "/proc/sys", "", MS_BIND | MS_REMOUNT, ""));
    said("remount_sys", mount("", "/sys", "", MS_REMOUNT, ""));
    said("unmask_kcore", umount2("/proc/kcore", MNT_DETACH));
    said("umount_proc", umount2("/proc", MNT_DETACH));
    said("umount_dev", umount2("/dev", MNT_DETACH));
    CALL("pivot_root", SYS_pivot_root, ".", ".");
    CALL("open_tree", 428, AT_FDCWD, "/", 1);
    CALL("move_mount", 429, -1, "", -1, "", 0);
    CALL("fsopen", 430, "tmpfs", 0);
    CALL("fsconfig", 431, -1, 0, 0, 0, 0);
    CALL("fsmount", 432, -1, 0, 0);
    CALL("fspick", 433, AT_FDCWD, "/", 0);
    CALL("mount_setattr", 442, -1, "", 0, 0, 0);
}

static void in_child(const char *name, long flags) {
    /* as glibc's fork does it, so that the child is a copy and nothing of the stack is shared */
    long pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        _exit(0);
    said(name, pid);
    if (pid > 0)
        waitpid(pid, 0, 0);
}

static void namespaces(void) {
    static const struct { const char *name; long flag; } kinds[] = {
        {"user", 0x10000000}, {"mnt", 0x20000},     {"pid", 0x20000000},      {"net", 0x40000000},
        {"uts", 0x4000000},   {"ipc", 0x8000000}, {"cgroup", 0x2000000},
    };
    char name[64];
    uint64_t arguments[11] = {0x10000000};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        snprintf(name, sizeof name, "unshare_%s", kinds[i].name);
        CALL(name, SYS_unshare, kinds[i].flag);
        snprintf(name, sizeof name, "clone_%s", kinds[i].name);
        in_child(name, kinds[i].flag);
        snprintf(name, sizeof name, "/proc/1/ns/%s", kinds[i].name);
        int fd = open(name, O_RDONLY);
        snprintf(name, sizeof name, "setns_%s", kinds[i].name);
        if (fd < 0)
            fd = open("/dev/null", O_RDONLY);
        CALL(name, SYS_setns, fd, 0);
        close(fd);
    }
    CALL("unshare_time", SYS_unshare, 0x80);
    CALL("clone3_user", 435, arguments, 64);
    said("uid_map", open("/proc/self/uid_map", O_WRONLY) < 0 ? -1 : write(open("/proc/self/uid_map", O_WRONLY), "0 0 1", 5));
}

static void processes(void) {
    pid_t victim = atoi(getenv("HOST_PID"));
    char buffer[64], path[64];
    uint64_t vector[2] = {(uint64_t)buffer, sizeof buffer};
    said("kill", kill(victim, 0));
    CALL("ptrace", SYS_ptrace, 0x4206 /* SEIZE */, victim, 0, 0);
    CALL("process_vm_readv", SYS_process_vm_readv, victim, vector, 1, vector, 1, 0);
    CALL("process_vm_writev", SYS_process_vm_writev, victim, vector, 1, vector, 1, 0);
    CALL("pidfd_open", 434, victim, 0);
    CALL("prlimit", SYS_prlimit64, victim, 7, 0, vector);
    CALL("setpriority", SYS_setpriority, 0, victim, 5);
    CALL("sched_setaffinity", SYS_sched_setaffinity, victim, sizeof buffer, memset(buffer, 1, sizeof buffer));
    CALL("migrate_pages", SYS_migrate_pages, victim, 0, 0, 0);
    snprintf(path, sizeof path, "/proc/%d/root/etc/passwd", victim);
    said("proc_root", open(path, O_RDONLY));
    snprintf(path, sizeof path, "/proc/%d/mem", victim);
    said("proc_mem", open(path, O_RDWR));
    /* all that this one may signal, which must be none but its own children: it is alone with its shell */
    pid_t child = fork();
    if (!child)
        for (;;)
            pause();
    said("kill_all", kill(-1, SIGKILL));
    waitpid(child, 0, 0);
    int seen = 0;
    DIR *proc = opendir("/proc");
    for (struct dirent *entry; (entry = readdir(proc));)
        seen += entry->d_name[0] >= '1' && entry->d_name[0] <= '9';
    printf("processes %d\n", seen);
}

static void opened(const char *name, const char *path, int flags) { said(name, open(path, flags | O_NONBLOCK)); }

static void files(void) {
    static const struct { const char *path; int flags; } wanted[] = {
        {"/proc/sys/kernel/core_pattern", O_WRONLY}, {"/proc/sys/kernel/modprobe", O_WRONLY},
        {"/proc/sys/vm/panic_on_oom", O_WRONLY},     {"/proc/sys/fs/binfmt_misc/register", O_WRONLY},
        {"/proc/sys/net/ipv4/ip_forward", O_WRONLY}, {"/proc/sys/kernel/hostname", O_WRONLY},
        {"/proc/sysrq-trigger", O_WRONLY},           {"/proc/irq/default_smp_affinity", O_WRONLY},
        {"/proc/kmsg", O_RDONLY},                    {"/proc/acpi/wakeup", O_WRONLY},
        {"/sys/kernel/uevent_helper", O_WRONLY},     {"/sys/kernel/mm/transparent_hugepage/enabled", O_WRONLY},
        {"/sys/power/state", O_WRONLY},              {"/sys/kernel/debug/sched", O_RDONLY},
        {"/sys/kernel/tracing/trace", O_RDONLY},     {"/sys/kernel/security/lockdown", O_RDONLY},
        {"/sys/fs/cgroup/release_agent", O_WRONLY},  {"/sys/fs/cgroup/memory/release_agent", O_WRONLY},
        {"/sys/fs/cgroup/memory/cgroup.procs", O_WRONLY}, {"/sys/fs/cgroup/cgroup.procs", O_WRONLY},
        {"/sys/firmware/efi", O_RDONLY},             {"/dev/mem", O_RDONLY},
        {"/dev/kmsg", O_WRONLY},                     {"/dev/console", O_RDWR},
        {"/dev/fuse", O_RDWR},                       {"/dev/loop-control", O_RDWR},
        {"/dev/net/tun", O_RDWR},                    {"/dev/kvm", O_RDWR},
        {"/dev/vda", O_RDONLY},                      {"/dev/sda", O_RDONLY},
        {"/run/swarmpy/swarmpy.sock", O_RDONLY},     {"/run/docker.sock", O_RDONLY},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        opened(wanted[i].path, wanted[i].path, wanted[i].flags);
}

static void devices(void) {
    unsigned major_number = atoi(getenv("DISK_MAJOR")), minor_number = atoi(getenv("DISK_MINOR"));
    static const char *places[] = {"/disk", "/dev/disk", "/dev/shm/disk", "/volume/disk", "/host/disk", "/memory/disk"};
    char name[64];
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(name, sizeof name, "mknod%s", places[i]);
        long made = mknod(places[i], S_IFBLK | 0600, makedev(major_number, minor_number));
        if (made < 0)
            said(name, made);
        else
            said(name, open(places[i], O_RDONLY));
        unlink(places[i]);
    }
    said("mknod_mem", mknod("/mem", S_IFCHR | 0600, makedev(1, 1)) ? -1 : open("/mem", O_RDONLY));
}

static void handles(void) {
    /* "type hex", of the canary's inode, on the file system that the task's bound files are on, too */
    static struct { unsigned bytes; int type; unsigned char data[128]; } handle;
    const char *text = getenv("HANDLE");
    char *hex;
    handle.type = strtol(text, &hex, 10);
    for (hex++; hex[0] && hex[1]; hex += 2) {
        char pair[3] = {hex[0], hex[1], 0};
        handle.data[handle.bytes++] = strtol(pair, 0, 16);
    }
    int fd = open("/etc/hostname", O_RDONLY), found = -1;
    said("open_by_handle_at", found = syscall(SYS_open_by_handle_at, fd, &handle, O_RDWR));
    if (found >= 0)
        said("write_canary", write(found, "ESCAPED", 7));
}

static void network(void) {
    struct sockaddr_un host = {AF_UNIX};
    struct ifreq lo = {.ifr_name = "lo"};
    const char *name = getenv("ABSTRACT");
    strcpy(host.sun_path + 1, name);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    said("abstract_socket", connect(fd, (void *)&host, sizeof(sa_family_t) + 1 + strlen(name)));
    said("vsock", socket(40, SOCK_STREAM, 0));
    said("af_alg", socket(38, SOCK_SEQPACKET, 0));
    said("raw", socket(AF_INET, SOCK_RAW, 1));
    said("ping", socket(AF_INET, SOCK_DGRAM, 1));
    said("packet", socket(AF_PACKET, SOCK_RAW, 0x0300));
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    lo.ifr_flags = 0;
    said("link_down", ioctl(fd, 0x8914, &lo));
    struct { uint32_t length; uint16_t type, flags; uint32_t sequence, pid; char body[64]; } request = {
        32, 16 /* RTM_NEWLINK */, 0x605, 1, 0};
    struct { int32_t length, error; } *answer;
    char buffer[256];
    fd = socket(AF_NETLINK, SOCK_RAW, 0);
    send(fd, &request, request.length, 0);
    recv(fd, buffer, sizeof buffer, 0);
    answer = (void *)(buffer + 12);
    errno = -answer->error;
    said("netlink_newlink", answer->error ? -1 : 0);
    fd = socket(AF_NETLINK, SOCK_RAW, 12);
    said("netfilter", fd < 0 ? fd : 0);
    struct if_nameindex *found = if_nameindex();
    for (int i = 0; found[i].if_index; i++)
        printf("interface %s\n", found[i].if_name);
}

static void ipc(void) {
    key_t key = strtol(getenv("KEY"), 0, 10);
    said("shmget", shmget(key, 0, 0));
    said("msgget", msgget(key, 0));
    said("semget", semget(key, 0, 0));
    said("shm_file", open("/dev/shm/swarmpy-isolation", O_RDONLY));
    CALL("mq_open", SYS_mq_open, "swarmpy-isolation", O_RDONLY, 0, 0);
}

static void rights(void) {
    uint32_t head[2] = {0x20080522, 0}, data[6];
    static const int wanted[] = {21 /* SYS_ADMIN */, 19 /* SYS_PTRACE */, 2 /* DAC_READ_SEARCH */, 16 /* SYS_MODULE */};
    for (size_t i = 0; i < 4; i++) {
        char name[64];
        syscall(SYS_capget, head, data);
        data[0] |= 1u << wanted[i];
        data[1] |= 1u << wanted[i];
        snprintf(name, sizeof name, "capset_%d", wanted[i]);
        CALL(name, SYS_capset, head, data);
        syscall(SYS_capget, head, data);
        data[2] |= 1u << wanted[i];
        snprintf(name, sizeof name, "inheritable_%d", wanted[i]);
        CALL(name, SYS_capset, head, data);
        snprintf(name, sizeof name, "ambient_%d", wanted[i]);
        said(name, prctl(47, 2, wanted[i], 0, 0));
    }
    said("securebits", prctl(PR_SET_SECUREBITS, 0x2f, 0, 0, 0));
    said("exe_file", prctl(35, 13, 0, 0, 0));
}

#ifdef __x86_64__
static long by_32_bits(long number, long one, long two, long three) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(one), "c"(two), "d"(three) : "memory", "r8", "r9", "r10", "r11");
    if ((int)result < 0 && (int)result > -4096) {
        errno = -(int)result;
        return -1;
    }
    return result;
}

static void abi(void) {
    said("32_getpid", by_32_bits(20, 0, 0, 0));
    said("32_mount", by_32_bits(21, 0, 0, 0));
    said("32_unshare", by_32_bits(310, 0x10000000, 0, 0));
    said("32_keyctl", by_32_bits(288, 0, -3, 0));
    said("32_setns", by_32_bits(346, -1, 0, 0));
    said("32_bpf", by_32_bits(357, 0, 0, 0));
    said("32_io_uring", by_32_bits(425, 0, 0, 0));
    said("32_clone_user", by_32_bits(120, 0x10000000 | SIGCHLD, 0, 0));
    said("32_vsock", by_32_bits(359, 40, SOCK_STREAM, 0));
    CALL("x32_getpid", 0x40000000 | SYS_getpid);
    CALL("x32_mount", 0x40000000 | SYS_mount, 0, 0, 0, 0, 0);
    CALL("x32_ptrace", 0x40000000 | 521, 0, 0, 0, 0);
    CALL("beyond_the_table", 999);
    CALL("negative", -2L);
}
#else
static void abi(void) {}
#endif

static void terminal(void) {
    char letter = 'x';
    said("tiocsti", ioctl(0, 0x5412, &letter));
    said("other_terminal", open("/dev/pts/1", O_RDWR));
    said("console", ioctl(0, 0x541d));
    said("tty1", open("/dev/tty1", O_RDWR));
}

static void keys(void) {
    /* the keyring of the session; and a key that is found in those of who asks */
    printf("session %ld\n", syscall(SYS_keyctl, 0, -3, 0));
    CALL("search", SYS_request_key, "user", getenv("KEY"), 0, 0);
}

static void bomb(void) {
    for (;;)
        if (fork() == 0)
            for (;;)
                fork();
}

static void deep(void) {
    long done = 0;
    for (int i = 0; i < 1100 && !done; i++)
        done = mkdir("d", 0755) || chdir("d");
    said("deep", done ? -1 : 0);
}

static void fds(void) {
    DIR *folder = opendir("/proc/self/fd");
    char path[64], to[256];
    for (struct dirent *entry; (entry = readdir(folder));) {
        snprintf(path, sizeof path, "/proc/self/fd/%.20s", entry->d_name);
        long length = readlink(path, to, sizeof to - 1);
        if (entry->d_name[0] == '.' || atoi(entry->d_name) == dirfd(folder))
            continue;
        to[length < 0 ? 0 : length] = 0;
        printf("fd %s %s\n", entry->d_name, to);
    }
}

int main(int count, char **words) {
    static const struct { const char *name; void (*run)(void); } groups[] = {
        {"calls", calls},     {"mounts", mounts},   {"namespaces", namespaces}, {"processes", processes},
        {"files", files},     {"devices", devices}, {"handles", handles},       {"network", network},
        {"ipc", ipc},         {"rights", rights},   {"abi", abi},               {"terminal", terminal},
        {"keys", keys},         {"fds", fds},           {"bomb", bomb},         {"deep", deep},
    };
    setvbuf(stdout, 0, _IOLBF, 0);
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
        if (count > 1 && !strcmp(words[1], groups[i].name)) {
            groups[i].run();
            return 0;
        }
    return 2;
}
