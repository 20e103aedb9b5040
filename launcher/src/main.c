/* The launcher of a self-restoring image. See ../README.md. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "launcher.h"

static const char usage[] = "usage: launcher start [--clocks node] -- COMMAND [ARGUMENT]...\n"
			    "       launcher build [--user USER[:GROUP]] [--groups GID,...] -- COMMAND [ARGUMENT]...\n"
			    "       launcher exec -- COMMAND [ARGUMENT]...\n"
			    "       launcher dump\n";

static int misused(void)
{
	fputs(usage, stderr);
	return EXIT_USAGE;
}

/* The options up to `--` come in pairs; which of them the mode has. Returns the command, or NULL. */
static char **parse_options(const char *mode, char **words, const char **user, const char **groups,
			    enum clocks *clocks)
{
	for (; *words && strcmp(*words, "--"); words += 2) {
		bool is_build = !strcmp(mode, "build");

		if (!words[1])
			return NULL;
		if (is_build && !strcmp(*words, "--user"))
			*user = words[1];
		else if (is_build && !strcmp(*words, "--groups"))
			*groups = words[1];
		else if (!strcmp(mode, "start") && !strcmp(*words, "--clocks") && !strcmp(words[1], "node"))
			*clocks = CLOCKS_OF_NODE;
		else
			return NULL;
	}
	return *words && words[1] ? words + 1 : NULL;
}

int main(int count, char **arguments)
{
	const char *user = "", *groups = "", *mode = count > 1 ? arguments[1] : "";
	enum clocks clocks = CLOCKS_OF_CHECKPOINT;
	char **command;

	if (!strcmp(mode, "dump"))
		return count == 2 ? dump_mode() : misused();
	command = count > 1 ? parse_options(mode, arguments + 2, &user, &groups, &clocks) : NULL;
	if (!command)
		return misused();
	if (!strcmp(mode, "build"))
		return build_mode(user, groups, command);
	if (!strcmp(mode, "exec"))
		return exec_mode(command);
	return strcmp(mode, "start") ? misused() : start_mode(clocks, command);
}
