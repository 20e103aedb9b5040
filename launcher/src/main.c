/* The launcher of a self-restoring image. See ../README.md. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "launcher.h"

static const char usage[] = "usage: launcher start [--clocks node] -- COMMAND [ARGUMENT]...\n"
			    "       launcher build [--user USER[:GROUP]] [--groups GID,...] [--capabilities SET]\n"
			    "                      [--directory DIRECTORY] [--volume PATH]... -- COMMAND [ARGUMENT]...\n"
			    "       launcher exec [--directory DIRECTORY] -- COMMAND [ARGUMENT]...\n"
			    "       launcher show | dump | pack\n"
			    "       launcher hooks look | ask\n"
			    "       launcher steps\n";

static int usage_error(void)
{
	fputs(usage, stderr);
	return EXIT_USAGE;
}

struct options {
	struct build_options build;
	enum clocks clocks;
};

static void add_volume(struct build_options *options, const char *path)
{
	options->volumes = grow(options->volumes, options->volume_count, sizeof *options->volumes);
	options->volumes[options->volume_count++] = path;
}

/* Parse the options before `--`, in pairs, each allowed in certain modes only. Return the command, or NULL. */
static char **parse_options(const char *mode, char **words, struct options *options)
{
	for (; *words && strcmp(*words, "--"); words += 2) {
		bool is_build = !strcmp(mode, "build"), is_exec = !strcmp(mode, "exec");

		if (!words[1])
			return NULL;
		if (is_build && !strcmp(*words, "--user"))
			options->build.user = words[1];
		else if (is_build && !strcmp(*words, "--groups"))
			options->build.groups = words[1];
		else if (is_build && !strcmp(*words, "--capabilities")) {
			if (!parse_number(words[1], UINT64_MAX, &options->build.capabilities))
				return NULL;
		}
		else if (is_build && !strcmp(*words, "--volume"))
			add_volume(&options->build, words[1]);
		else if ((is_build || is_exec) && !strcmp(*words, "--directory"))
			options->build.directory = words[1];
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
	struct options options = {{"", "", "/", 0, NULL, 0}, CLOCKS_OF_CHECKPOINT};
	char **command;

	if (!strcmp(mode, "show") && count == 2)
		return show_mode();
	if (!strcmp(mode, "dump") && count == 2)
		return dump_mode();
	if (!strcmp(mode, "pack") && count == 2)
		return pack_mode();
	if (!strcmp(mode, "hooks") && count == 3 && (!strcmp(arguments[2], "look") || !strcmp(arguments[2], "ask")))
		return hooks_mode(!strcmp(arguments[2], "ask"));
	if (!strcmp(mode, "steps") && count == 2)
		return steps_mode();
	command = count > 1 ? parse_options(mode, arguments + 2, &options) : NULL;
	if (!command)
		return usage_error();
	if (!strcmp(mode, "build"))
		return build_mode(&options.build, command);
	if (!strcmp(mode, "exec"))
		return exec_mode(options.build.directory, command);
	return strcmp(mode, "start") ? usage_error() : start_mode(options.clocks, command);
}
