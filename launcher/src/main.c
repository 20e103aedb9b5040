/* The launcher of a self-restoring image. See ../README.md. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "launcher.h"

static const char usage[] = "usage: launcher start -- COMMAND [ARGUMENT]...\n"
			    "       launcher build [--user USER[:GROUP]] [--groups GID,...] -- COMMAND [ARGUMENT]...\n"
			    "       launcher dump\n";

static int misused(void)
{
	fputs(usage, stderr);
	return EXIT_USAGE;
}

int main(int count, char **arguments)
{
	const char *user = "", *groups = "", *mode = count > 1 ? arguments[1] : "";
	bool is_build = !strcmp(mode, "build");

	if (!strcmp(mode, "dump"))
		return count == 2 ? dump_mode() : misused();
	if (!is_build && strcmp(mode, "start"))
		return misused();
	for (arguments += 2; *arguments && strcmp(*arguments, "--"); arguments += 2) {
		if (!is_build || !arguments[1])
			return misused();
		if (!strcmp(*arguments, "--user"))
			user = arguments[1];
		else if (!strcmp(*arguments, "--groups"))
			groups = arguments[1];
		else
			return misused();
	}
	if (!*arguments || !arguments[1])
		return misused();
	return is_build ? build_mode(user, groups, arguments + 1) : start_mode(arguments + 1);
}
