/* The launcher of a self-restoring image. See ../README.md. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "launcher.h"

static const char usage[] = "usage: launcher start [--clocks node] -- COMMAND [ARGUMENT]...\n"
			    "       launcher build [--user USER[:GROUP]] [--groups GID,...] [--directory DIRECTORY]\n"
			    "                      -- COMMAND [ARGUMENT]...\n"
			    "       launcher exec [--directory DIRECTORY] -- COMMAND [ARGUMENT]...\n"
			    "       launcher dump\n";

static int usage_error(void)
{
	fputs(usage, stderr);
	return EXIT_USAGE;
}

struct options {
	const char *user, *groups, *directory;
	enum clocks clocks;
};

/* Parse the options before `--`, in pairs, each allowed in certain modes only. Return the command, or NULL. */
static char **parse_options(const char *mode, char **words, struct options *options)
{
	for (; *words && strcmp(*words, "--"); words += 2) {
		bool is_build = !strcmp(mode, "build"), is_exec = !strcmp(mode, "exec");

		if (!words[1])
			return NULL;
		if (is_build && !strcmp(*words, "--user"))
			options->user = words[1];
		else if (is_build && !strcmp(*words, "--groups"))
			options->groups = words[1];
		else if ((is_build || is_exec) && !strcmp(*words, "--directory"))
			options->directory = words[1];
		else if (!strcmp(mode, "start") && !strcmp(*words, "--clocks") && !strcmp(words[1], "node"))
			options->clocks = CLOCKS_OF_NODE;
		else
			return NULL;
	}
	return *words && words[1] ? words + 1 : NULL;
}

int main(int count, char **arguments)
{
	const char *mode = count > 1 ? arguments[1] : "";
	struct options options = {"", "", "/", CLOCKS_OF_CHECKPOINT};
	char **command;

	if (!strcmp(mode, "dump"))
		return count == 2 ? dump_mode() : usage_error();
	command = count > 1 ? parse_options(mode, arguments + 2, &options) : NULL;
	if (!command)
		return usage_error();
	if (!strcmp(mode, "build"))
		return build_mode(options.user, options.groups, options.directory, command);
	if (!strcmp(mode, "exec"))
		return exec_mode(options.directory, command);
	return strcmp(mode, "start") ? usage_error() : start_mode(options.clocks, command);
}
