/* Puts restrictions on itself, and says which it has: for a process that is to be dumped and restored.
 *
 * restrain() sets them; tell_restraints() prints " NAME=VALUE" for each. What a kernel refuses has the negative number of
 * the error instead.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "restrained.h"

enum { LANDLOCK_CREATE_RULESET = 444, MEMORY_SEAL = 462, IO_URING_SETUP = 425, SET_MDWE = 65, GET_MDWE = 66 };
enum { PAGE = 4096 };

static char *locked, *undumped;
static long landlock, key, protection, sealed, ring, mdwe;

static long result(long value)
{
	return value < 0 ? -errno : value;
}

void restrain(void)
{
	struct rlimit files = {300, 400}, core = {0, 0};
	struct {
		uint64_t file_system;
	} rules = {1};

	locked = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	/* Not to become one mapping. */
	mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	undumped = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	strcpy(locked, "locked");
	strcpy(undumped, "undumped");
	if (mlock(locked, PAGE) || madvise(undumped, PAGE, MADV_DONTDUMP) || madvise(undumped, PAGE, MADV_WIPEONFORK))
		perror("memory");
	if (setrlimit(RLIMIT_NOFILE, &files) || setrlimit(RLIMIT_CORE, &core))
		perror("limits");
	umask(0137);
	prctl(PR_SET_PDEATHSIG, 12);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	prctl(PR_SET_KEEPCAPS, 1);
	prctl(PR_SET_TIMERSLACK, 77777);
	landlock = result(syscall(LANDLOCK_CREATE_RULESET, &rules, sizeof rules, 0));
	if (landlock >= 0)
		close(landlock);
	key = result(syscall(SYS_add_key, "user", "restrained", "x", 1, -3));
	protection = result(syscall(SYS_pkey_alloc, 0, 0));
	sealed = result(syscall(MEMORY_SEAL, undumped, PAGE, 0));
	ring = result(syscall(IO_URING_SETUP, 0, NULL));
	mdwe = result(prctl(SET_MDWE, 1, 0, 0, 0));
	prctl(PR_SET_DUMPABLE, 0);
}

/* The flags of the mapping that begins there. */
static void tell_mapping(const char *name, const void *start)
{
	char line[512], begin[32];
	FILE *maps = fopen("/proc/self/smaps", "r");
	int inside = 0;

	snprintf(begin, sizeof begin, "%lx-", (unsigned long)start);
	while (maps && fgets(line, sizeof line, maps)) {
		unsigned long from, to;

		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			inside = !strncmp(line, begin, strlen(begin));
		else if (inside && !strncmp(line, "VmFlags:", 8))
			printf(" %s=%s%s%s", name, strstr(line, " lo") ? "locked" : "", strstr(line, " dd") ? "undumped" : "",
			       strstr(line, " wf") ? "wiped" : "");
	}
	if (maps)
		fclose(maps);
}

void tell_restraints(void)
{
	struct rlimit files, core;
	int death = 0, reaper = 0;
	mode_t mask = umask(0);

	umask(mask);
	getrlimit(RLIMIT_NOFILE, &files);
	getrlimit(RLIMIT_CORE, &core);
	prctl(PR_GET_PDEATHSIG, &death);
	prctl(PR_GET_CHILD_SUBREAPER, &reaper);
	printf(" dumpable=%d files=%ju,%ju core=%ju umask=%o death=%d reaper=%d", prctl(PR_GET_DUMPABLE),
	       (uintmax_t)files.rlim_cur, (uintmax_t)files.rlim_max, (uintmax_t)core.rlim_max, mask, death, reaper);
	printf(" thp=%d securebits=%d privs=%d", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), prctl(PR_GET_SECUREBITS),
	       prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	tell_mapping("locked", locked);
	tell_mapping("undumped", undumped);
	printf(" landlock=%ld key=%ld protection=%ld sealed=%ld ring=%ld mdwe=%ld", landlock, key, protection, sealed, ring,
	       mdwe);
	printf(" slack=%d mdwe_now=%ld", prctl(PR_GET_TIMERSLACK), result(prctl(GET_MDWE, 0, 0, 0, 0)));
}
