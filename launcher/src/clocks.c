/* Clocks: let those of the restored processes continue from the checkpoint, if the kernel allows it. See
 * time_namespaces(7). Otherwise they jump ahead, and timers at a fixed rate catch up on all that they missed.
 *
 * The offsets of a time namespace can be set until the first process is in it, so its creator stays outside, and its
 * children are in it. That is what unshare(2) does. Some filters of system calls refuse it to containers without
 * CAP_SYS_ADMIN, and allow clone3(2). A child of clone3() is in its new time namespace at once, unless
 * it shares our memory (copy_namespaces() in kernel/nsproxy.c). So one that does goes on as after unshare(2).
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "launcher.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#ifndef SYS_clone3
#define SYS_clone3 435
#endif

#define STACK_SIZE (256 << 10)

struct within {
	const struct manifest *manifest;
	restorer *run;
	int log;
	unsigned user, group;
};

/* struct clone_args of linux/sched.h, in its first version. */
struct clone3_arguments {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
};

static bool write_text(const char *path, const char *format, unsigned long number)
{
	char text[64];
	int fd = open(path, O_WRONLY | O_CLOEXEC), length = snprintf(text, sizeof text, format, number, number);
	bool written = fd >= 0 && write(fd, text, length) == length;

	close(fd);
	return written;
}

static bool may_enter_user_namespace(const struct manifest *manifest)
{
	/* In a user namespace, capabilities count only there: root could not become another user, for example. And it
	 * does not map supplementary groups, so they would all look the same. */
	if (manifest->capabilities & own_capabilities())
		return false;
	for (size_t i = 0; i < manifest->identity.group_count; i++)
		if (manifest->identity.groups[i] != getegid())
			return false;
	return true;
}

/* A new user namespace has a full bounding set, even if its creator's is empty. */
static bool settle_in_user_namespace(unsigned user, unsigned group)
{
	return write_text("/proc/self/uid_map", "%lu %lu 1", user) && write_text("/proc/self/setgroups", "deny", 0) &&
	       write_text("/proc/self/gid_map", "%lu %lu 1", group) && limit_bounding_set(0);
}

static bool write_offset(int fd, const char *clock, uint64_t then_ns, uint64_t now_ns)
{
	int64_t offset = then_ns - now_ns, seconds = offset / 1000000000, rest = offset % 1000000000;

	if (rest < 0) {
		rest += 1000000000;
		seconds--;
	}
	return dprintf(fd, "%s %jd %jd\n", clock, (intmax_t)seconds, (intmax_t)rest) > 0;
}

static bool set_clocks(const struct manifest *manifest)
{
	int fd = open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC);
	bool written = fd >= 0 &&
		       write_offset(fd, "monotonic", manifest->monotonic_ns, clock_ns(CLOCK_MONOTONIC)) &&
		       write_offset(fd, "boottime", manifest->boottime_ns, clock_ns(CLOCK_BOOTTIME));

	close(fd);
	return written;
}

/* Set the clocks, and run the restorer in a child, which has them. */
static int run_in_child(const struct within *within)
{
	int status;
	pid_t pid;

	if (!set_clocks(within->manifest))
		return NO_CLOCKS;
	pid = fork();
	if (!pid)
		within->run(within->manifest, within->log);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return EXIT_FAILED;
	return WEXITSTATUS(status);
}

/* In a new user namespace, in which we have all capabilities. */
static int run_in_user_namespace(void *argument)
{
	const struct within *within = argument;

	return settle_in_user_namespace(within->user, within->group) ? run_in_child(within) : NO_CLOCKS;
}

/* Call clone3(2), and run a function in the child, on a stack of its own. Return the child, or a negative error. */
static long clone_and_run(struct clone3_arguments *arguments, int (*run)(void *), void *argument)
{
#if defined(__x86_64__)
	register int (*called)(void *) __asm__("r8") = run;
	register void *given __asm__("r9") = argument;
	long result = SYS_clone3;

	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %[given], %%rdi\n\t"
			 "call *%[called]\n\t"
			 "mov %%eax, %%edi\n\t"
			 "mov %[leave], %%eax\n\t"
			 "syscall\n"
			 "1:"
			 : "+a"(result)
			 : "D"(arguments), "S"(sizeof *arguments), [called] "r"(called), [given] "r"(given),
			   [leave] "i"(SYS_exit_group)
			 : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register int (*called)(void *) __asm__("x9") = run;
	register void *given __asm__("x10") = argument;
	register long number __asm__("x8") = SYS_clone3;
	register long result __asm__("x0") = (long)arguments;
	register long size __asm__("x1") = sizeof *arguments;

	__asm__ volatile("svc #0\n\t"
			 "cbnz x0, 1f\n\t"
			 "mov x29, xzr\n\t"
			 "mov x0, %[given]\n\t"
			 "blr %[called]\n\t"
			 "mov x8, %[leave]\n\t"
			 "svc #0\n"
			 "1:"
			 : "+r"(result)
			 : "r"(number), "r"(size), [called] "r"(called), [given] "r"(given),
			   [leave] "i"(SYS_exit_group)
			 : "memory");
	return result;
#else
	(void)arguments, (void)run, (void)argument;
	return -ENOSYS;
#endif
}

/* We stand still until the child ends, since it uses our memory. */
static int run_in_clone(struct within *within)
{
	void *stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct clone3_arguments arguments = {
		.flags = CLONE_NEWUSER | CLONE_NEWTIME | CLONE_VM | CLONE_VFORK,
		.exit_signal = SIGCHLD,
		.stack = (uintptr_t)stack,
		.stack_size = STACK_SIZE,
	};
	long pid = stack == MAP_FAILED ? -1 : clone_and_run(&arguments, run_in_user_namespace, within);
	int status;

	if (pid < 0)
		return NO_CLOCKS;
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return EXIT_FAILED;
	return WEXITSTATUS(status);
}

int run_within_clocks(const struct manifest *manifest, restorer *run, int log)
{
	struct within within = {manifest, run, log, geteuid(), getegid()};

	if (!unshare(CLONE_NEWTIME))
		return run_in_child(&within);
	if (!may_enter_user_namespace(manifest))
		return NO_CLOCKS;
	if (!unshare(CLONE_NEWUSER))
		return unshare(CLONE_NEWTIME) ? NO_CLOCKS : run_in_user_namespace(&within);
	return run_in_clone(&within);
}
