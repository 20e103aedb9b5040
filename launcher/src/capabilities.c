/* Capabilities, as sets of bits: bit N is capability N of capabilities(7). */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "launcher.h"

enum { VERSION_3 = 0x20080522, WORDS = 2 };

/* The C library does not declare the structures of capget(2). */
struct header {
	uint32_t version;
	int pid;
};
struct sets {
	uint32_t effective, permitted, inheritable;
};

static void get(struct sets *sets)
{
	struct header header = {.version = VERSION_3};

	if (syscall(SYS_capget, &header, sets) < 0)
		fail("capget: %s", strerror(errno));
}

static void set(const struct sets *sets)
{
	struct header header = {.version = VERSION_3};

	if (syscall(SYS_capset, &header, sets) < 0)
		fail("capset: %s", strerror(errno));
}

uint64_t own_capabilities(void)
{
	struct sets sets[WORDS];

	get(sets);
	return (uint64_t)sets[1].permitted << 32 | sets[0].permitted;
}

/* No exec can gain a capability outside the bounding set, not even as root. */
bool limit_bounding_set(uint64_t kept)
{
	for (int capability = 0; prctl(PR_CAPBSET_READ, capability) >= 0; capability++)
		if (!(kept >> capability & 1) && prctl(PR_CAPBSET_DROP, capability) < 0)
			return false;
	return true;
}

/* With no inheritable and ambient capabilities, the next exec leaves root those of the bounding set, and others none.
 * Until then the permitted ones stay: they keep processes with fewer of them from looking into this one. */
void clear_inheritable_capabilities(void)
{
	struct sets sets[WORDS];

	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	get(sets);
	for (int i = 0; i < WORDS; i++)
		sets[i].inheritable = 0;
	set(sets);
}

/* Make all permitted capabilities inheritable and ambient, so that they survive a change of user and an exec. */
void keep_capabilities(void)
{
	struct sets sets[WORDS];
	uint64_t own = own_capabilities();

	get(sets);
	for (int i = 0; i < WORDS; i++)
		sets[i].effective = sets[i].inheritable = sets[i].permitted;
	set(sets);
	for (int number = 0; prctl(PR_CAPBSET_READ, number) >= 0; number++)
		if (own >> number & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0) < 0)
			fail("cannot keep capability %d: %s", number, strerror(errno));
}

/* Those that a restore can need. */
static const struct {
	int number;
	const char *name;
} names[] = {{5, "KILL"}, {6, "SETGID"}, {7, "SETUID"}, {8, "SETPCAP"}};

const char *name_capabilities(uint64_t set)
{
	static char text[128];
	size_t length = 0;

	*text = 0;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (set >> names[i].number & 1)
			length += snprintf(text + length, sizeof text - length, "%s%s", length ? ", " : "", names[i].name);
	return length ? text : "capabilities";
}
