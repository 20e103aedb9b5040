/* Lets CRIU read the resource limits of a process of another user where root lacks CAP_SYS_RESOURCE.
 *
 * CRIU asks with prlimit64(2), through syscall(3). Without that capability the kernel answers EPERM to a caller of
 * another uid (kernel/sys.c, check_prlimit_permission), and in many sandboxes that is how root is; yet
 * /proc/PID/limits tells anybody. Preloaded into criu, this answers from there. All else goes to the kernel as it is.
 *
 * Format of /proc/PID/limits: proc_pid_limits in fs/proc/base.c; one line a limit after the heading, in the order of
 * their numbers, "%-25s %-20s %-20s %-10s".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NAME_WIDTH 26
#define VALUE_WIDTH 21

static long raw(long n, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	long result;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
#else
#error "no system calls for this architecture"
#endif
}

static rlim64_t value(const char *text)
{
	return strncmp(text, "unlimited", 9) ? strtoull(text, NULL, 10) : RLIM64_INFINITY;
}

static int read_limit(long pid, long resource, struct rlimit64 *limit)
{
	char path[64], line[256];
	FILE *file;
	int found = 0;

	snprintf(path, sizeof path, "/proc/%ld/limits", pid);
	file = fopen(path, "re");
	if (!file)
		return 0;
	for (long number = -1; fgets(line, sizeof line, file); number++)
		if (number == resource && strlen(line) > NAME_WIDTH + VALUE_WIDTH) {
			limit->rlim_cur = value(line + NAME_WIDTH);
			limit->rlim_max = value(line + NAME_WIDTH + VALUE_WIDTH);
			found = 1;
		}
	fclose(file);
	return found;
}

long syscall(long number, ...)
{
	long a[6];
	va_list arguments;

	va_start(arguments, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(arguments, long);
	va_end(arguments);
	long result = raw(number, a[0], a[1], a[2], a[3], a[4], a[5]);
	if (number == SYS_prlimit64 && result == -EPERM && !a[2] && a[3] && read_limit(a[0], a[1], (void *)a[3]))
		return 0;
	if (result < 0 && result > -4096) {
		errno = -result;
		return -1;
	}
	return result;
}
