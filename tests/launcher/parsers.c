/* The launcher's parsers, for tests and for fuzzing.
 *
 *   parsers manifest|user|parent|tmpfs|log|reply < INPUT    print the result of this parser
 *   parsers fuzz COUNT < INPUT                        run COUNT mutations through all parsers
 *   parsers fuzz COUNT SEED FILE < INPUT              run other mutations, and save one that fails as FILE
 *   parsers again < FILE                              run it again
 *
 * Built with -DLIBFUZZER and -fsanitize=fuzzer it is a libFuzzer target instead. The first byte of a fuzzed input
 * selects the parser.
 */
#include <sanitizer/common_interface_defs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "launcher.h"

#define MOST 65536

static void print_identity(const struct identity *identity)
{
	printf("user %u group %u groups", identity->user, identity->group);
	for (size_t i = 0; i < identity->group_count; i++)
		printf(" %u", identity->groups[i]);
	printf(" home %s\n", identity->home ? identity->home : "");
}

static void print_step(const struct step *step)
{
	printf("step signal %d limit %ju", step->signal, (uintmax_t)step->limit_ms);
	for (char **word = step->words; word && *word; word++)
		printf(" <%s>", *word);
	if (step->request)
		printf(" host %s port %u request <%s>", step->host ? step->host : "own", step->port, step->request);
	printf("\n");
}

static void parse_as_manifest(char *text)
{
	struct manifest m;
	struct reason reason;

	if (!parse_manifest(text, &m, &reason)) {
		printf("%s\n", reason.text);
	} else {
		for (size_t i = 0; i < m.argument_count; i++)
			printf("argument %s\n", m.arguments[i]);
		for (size_t i = 0; i < m.file_count; i++)
			printf("file %s %ju\n", m.files[i].name, (uintmax_t)m.files[i].size_bytes);
		for (size_t i = 0; i < m.listener_count; i++)
			printf("listen v6 %d only %d port %u backlog %d inode %ju\n", m.listeners[i].family == AF_INET6,
			       m.listeners[i].v6_only, m.listeners[i].port, m.listeners[i].backlog,
			       (uintmax_t)m.listeners[i].inode);
		for (size_t i = 0; i < m.cpu_count; i++)
			printf("cpu %s %zu\n", m.cpu[i], cpu_feature(m.cpu[i]));
		for (size_t i = 0; i < m.frozen_count; i++)
			printf("frozen %s %02x...%02x\n", m.frozen[i].name, m.frozen[i].digest[0], m.frozen[i].digest[31]);
		for (size_t i = 0; i < m.late_count; i++)
			printf("late %s\n", m.late[i]);
		for (size_t i = 0; i < m.volume_count; i++)
			printf("volume %s\n", m.volumes[i]);
		for (size_t i = 0; i < m.step_count; i++)
			print_step(&m.steps[i]);
		for (size_t i = 0; i < m.hook_count; i++)
			printf("hook %d limit %ju\n", m.hooks[i].pid, (uintmax_t)m.hooks_limit_ms);
		printf("salt %02x...%02x warns %d\n", m.salt[0], m.salt[15], m.warns);
		print_identity(&m.identity);
		printf("pid %d pipes %ju %ju clocks %ju %ju expires %ju complete %d\n", m.pid, (uintmax_t)m.stdout_inode,
		       (uintmax_t)m.stderr_inode, (uintmax_t)m.monotonic_ns, (uintmax_t)m.boottime_ns,
		       (uintmax_t)m.expires_s, m.complete);
	}
	free(m.arguments);
	free(m.files);
	free(m.listeners);
	free(m.cpu);
	free(m.frozen);
	free(m.late);
	free(m.volumes);
	for (size_t i = 0; i < m.step_count; i++)
		free(m.steps[i].words);
	free(m.steps);
	free(m.hooks);
	free(m.identity.groups);
}

/* The user, a line of dashes, /etc/passwd, a line of dashes, /etc/group. */
static void parse_as_user(char *text)
{
	char none[] = "", *passwd = strstr(text, "\n--\n"), *group;
	struct identity identity;
	struct reason reason;

	group = passwd ? strstr(passwd + 1, "\n--\n") : NULL;
	if (passwd)
		*passwd = 0;
	if (group)
		*group = 0;
	if (resolve_user(text, passwd ? passwd + 4 : none, group ? group + 4 : none, &identity, &reason))
		print_identity(&identity);
	else
		printf("%s\n", reason.text);
	free(identity.groups);
}

static void parse_as_parent(char *text)
{
	pid_t parent;

	if (parse_parent(text, &parent))
		printf("%d\n", parent);
	else
		printf("none\n");
}

static void parse_as_tmpfs(char *text)
{
	const char *mount_point = parse_tmpfs(text);

	printf("%s\n", mount_point ? mount_point : "none");
}

static void parse_as_log(char *text)
{
	struct criu_log log = {0};

	for (size_t at = 0, length = strlen(text); at < length; at += 100)
		read_log(&log, text + at, length - at < 100 ? length - at : 100);
	printf("%s\n", log.error);
}

static void parse_as_reply(char *text)
{
	struct reply reply;

	if (parse_reply(text, &reply))
		printf("%d <%s> <%s>\n", reply.pid, reply.event, reply.error);
	else
		printf("none\n");
}

static void parse_as_status(char *text)
{
	printf("%u\n", parse_status(text));
}

/* The digest of a text, in hexadecimal. */
static void hash(char *text)
{
	unsigned char digest[DIGEST_BYTES];

	sha256(text, strlen(text), digest);
	for (size_t i = 0; i < sizeof digest; i++)
		printf("%02x", digest[i]);
	printf("\n");
}

/* Variables, one a line. Lines of the log are printed. */
static void parse_as_variables(char *text)
{
	char *variables[100], **next = variables;
	struct manifest none = {0};

	while (next < variables + 99 && (*next = next_line(&text)))
		next++;
	*next = NULL;
	tell_new_variables(&none, variables);
}

/* Two moments and a limit. */
static void compare_times(char *text)
{
	uint64_t numbers[3] = {0};

	for (size_t i = 0; i < 3; i++)
		parse_number(next_word(&text), UINT64_MAX, &numbers[i]);
	printf("%s\n", is_within(numbers[0], numbers[1], numbers[2]) ? "within" : "no");
}

static void parse_as_range(char *text)
{
	struct range range;

	if (parse_range(text, &range))
		printf("%ju %ju <%s>\n", (uintmax_t)range.start, (uintmax_t)range.size, range.path);
	else
		printf("none\n");
}

static const struct {
	const char *name;
	void (*parse)(char *text);
} parsers[] = {
	{"manifest", parse_as_manifest}, {"user", parse_as_user}, {"parent", parse_as_parent},
	{"tmpfs", parse_as_tmpfs},	 {"log", parse_as_log},	  {"status", parse_as_status},
	{"sha256", hash},		 {"variables", parse_as_variables},
	{"times", compare_times},	 {"reply", parse_as_reply},	  {"range", parse_as_range},
};
#define COUNT (sizeof parsers / sizeof *parsers)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text;

	if (!size || !(text = strndup((const char *)data + 1, size - 1)))
		return 0;
	parsers[*data % COUNT].parse(text);
	free(text);
	return 0;
}

#ifndef LIBFUZZER
static uint64_t state = 0x9E3779B97F4A7C15ull;
static uint8_t mutated[MOST + 1];
static size_t mutated_size;
static const char *failing;

/* The sanitizers call this when they end the program. */
static void keep_input(void)
{
	FILE *file = failing ? fopen(failing, "w") : NULL;

	if (file) {
		fwrite(mutated, 1, mutated_size, file);
		fclose(file);
	}
}

static uint32_t draw(uint32_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (state >> 32) % below;
}

static size_t mutate(uint8_t *to, const char *from, size_t size)
{
	static const char special[] = "\n :,-()%0\\9=\xff";

	memcpy(to + 1, from, size);
	for (uint32_t left = draw(8); left && size; left--) {
		uint32_t at = 1 + draw(size), length = 1 + draw(16);

		switch (draw(4)) {
		case 0:
			to[at] = draw(256);
			break;
		case 1:
			to[at] = special[draw(sizeof special - 1)];
			break;
		case 2: /* delete a piece */
			if (at + length <= size) {
				memmove(to + at, to + at + length, size + 1 - at - length);
				size -= length;
			}
			break;
		default: /* duplicate a piece */
			if (at + length <= size && size + length < MOST) {
				memmove(to + at + length, to + at, size + 1 - at);
				size += length;
			}
		}
	}
	return size;
}

int main(int count, char **arguments)
{
	static char input[MOST];
	size_t size = fread(input, 1, sizeof input - 1, stdin);

	if (count == 2)
		dup2(STDOUT_FILENO, STDERR_FILENO); /* the launcher's log */
	if (count == 5) {
		state ^= strtoull(arguments[3], NULL, 10) << 1;
		failing = arguments[4];
		__sanitizer_set_death_callback(keep_input);
	}
	if (count == 2 && !strcmp(arguments[1], "again"))
		LLVMFuzzerTestOneInput((uint8_t *)input, size);
	if ((count == 3 || count == 5) && !strcmp(arguments[1], "fuzz"))
		for (long left = atol(arguments[2]); left > 0; left--) {
			size_t length = mutate(mutated, input, size);

			mutated[0] = draw(COUNT);
			mutated_size = length + 1;
			LLVMFuzzerTestOneInput(mutated, length + 1);
		}
	for (size_t i = 0; i < COUNT; i++)
		if (count == 2 && !strcmp(arguments[1], parsers[i].name))
			parsers[i].parse(input);
	return 0;
}
#endif
