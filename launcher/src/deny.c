/* Deny the application the kernel features that a restore would silently lose.
 *
 * Their use could not be detected later: it is not visible from outside, or CRIU does not dump it. So these calls fail
 * as on an older kernel without the feature, and programs that use them are prepared for that. The filter is part of the
 * checkpoint, so the calls keep failing after a restore.
 */
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "bpf.h"
#include "launcher.h"

/* From linux/audit.h and linux/seccomp.h: musl does not come with the kernel's headers. */
#if defined(__x86_64__)
#define ARCHITECTURE 0xc000003e
#elif defined(__aarch64__)
#define ARCHITECTURE 0xc00000b7
#endif
#define ALLOW 0x7fff0000
#define ERROR(number) (0x00050000 | (number))
#define DENY(number, error) IF_EQUAL(number, 0, 1), RETURN(ERROR(error))
enum { NUMBER = 0, ARCHITECTURE_OF_CALL = 4, FIRST_ARGUMENT = 16 }; /* in struct seccomp_data */
enum { MODE_FILTER = 2 };

/* Missing in some headers. Numbers from 424 on are the same on all architectures. */
enum { IO_URING_SETUP = 425, IO_URING_ENTER, IO_URING_REGISTER, LANDLOCK_CREATE_RULESET = 444, MEMORY_SEAL = 462 };
enum { SET_MDWE = 65 }; /* PR_SET_MDWE */

/* See docs/restrictions.md. */
static struct instruction instructions[] = {
	LOAD(NUMBER),
	DENY(IO_URING_SETUP, ENOSYS),
	DENY(IO_URING_ENTER, ENOSYS),
	DENY(IO_URING_REGISTER, ENOSYS),
	DENY(LANDLOCK_CREATE_RULESET, EOPNOTSUPP), /* as if disabled at boot */
	DENY(MEMORY_SEAL, ENOSYS),
	LOAD(ARCHITECTURE_OF_CALL),
	IF_EQUAL(ARCHITECTURE, 1, 0),
	RETURN(ALLOW),
	LOAD(NUMBER),
	DENY(SYS_add_key, ENOSYS),
	DENY(SYS_request_key, ENOSYS),
	DENY(SYS_keyctl, ENOSYS),
	DENY(SYS_pkey_alloc, ENOSPC), /* the processor has none */
	IF_EQUAL(SYS_prctl, 1, 0),
	RETURN(ALLOW),
	LOAD(FIRST_ARGUMENT), /* its lower half: both architectures are little-endian */
	DENY(SET_MDWE, EINVAL),
	RETURN(ALLOW),
};

void deny_unrestorable_calls(void)
{
	struct program program = PROGRAM(instructions);

	if (prctl(PR_SET_SECCOMP, MODE_FILTER, &program) < 0)
		fail("cannot install the seccomp filter of the build: %s", strerror(errno));
}
