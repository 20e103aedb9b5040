/* Exec: run a command in the build container with the application's user and privileges. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "launcher.h"

int exec_mode(const char *directory, char **command)
{
	char *text = read_file(STATE "/manifest"), *passwd, none[] = "", user[16];
	struct manifest manifest;
	struct identity named;
	struct reason reason;

	if (!text)
		fail("cannot read " STATE "/manifest (written by build): %s", strerror(errno));
	if (!parse_manifest(text, &manifest, &reason))
		fail("%s", reason.text);
	enter_container(open_container());
	enter_directory(directory);
	passwd = read_file("/etc/passwd");
	snprintf(user, sizeof user, "%u", manifest.identity.user);
	if (resolve_user(user, passwd ? passwd : none, none, &named, &reason))
		set_home(named.home);
	drop_privileges(&manifest.identity, manifest.capabilities);
	execvp(*command, command);
	say("%s: %s", *command, strerror(errno));
	return errno == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE;
}
