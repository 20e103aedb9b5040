/* Compare the container's environment with the build's.
 *
 * A restored application has the values of the build in its memory. The manifest has a digest of each variable that must
 * not differ ("frozen"), and the names of those that the application reads again ("late"). No value is logged.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher.h"

#define MORE ", ..."

/* A list of names for one line of the log. */
struct names {
	char text[1500];
	size_t count, left_out;
};

static void add_name(struct names *names, const char *name, const char *note)
{
	char *escaped = escape(name);
	size_t length = strlen(names->text);

	if (length + strlen(", ") + strlen(escaped) + strlen(note) + strlen(MORE) >= sizeof names->text)
		names->left_out++;
	else
		snprintf(names->text + length, sizeof names->text - length, "%s%s%s", length ? ", " : "", escaped, note);
	names->count++;
	free(escaped);
}

static void end_names(struct names *names)
{
	size_t length = strlen(names->text);

	if (names->left_out)
		snprintf(names->text + length, sizeof names->text - length, MORE);
}

static const char *find_value(char **environment, const char *name)
{
	size_t length = strlen(name);

	for (; *environment; environment++)
		if (!strncmp(*environment, name, length) && (*environment)[length] == '=')
			return *environment + length + 1;
	return NULL;
}

/* The digest is of the salt, and of NAME=VALUE. */
static bool is_same(const struct manifest *manifest, const struct frozen *frozen, const char *value)
{
	size_t name_length = strlen(frozen->name), value_length = strlen(value);
	size_t length = SALT_BYTES + name_length + 1 + value_length;
	unsigned char digest[DIGEST_BYTES];
	char *text = malloc(length), *to = text;

	if (!text)
		fail("out of memory");
	memcpy(to, manifest->salt, SALT_BYTES);
	to += SALT_BYTES;
	memcpy(to, frozen->name, name_length);
	to += name_length;
	*to++ = '=';
	memcpy(to, value, value_length);
	sha256(text, length, digest);
	free(text);
	return !memcmp(digest, frozen->digest, DIGEST_BYTES);
}

bool same_variables(const struct manifest *manifest, char **environment, struct reason *reason)
{
	struct names names = {0};

	for (size_t i = 0; i < manifest->frozen_count; i++) {
		const char *value = find_value(environment, manifest->frozen[i].name);

		if (!value || !is_same(manifest, &manifest->frozen[i], value))
			add_name(&names, manifest->frozen[i].name, value ? "" : " (not set)");
	}
	end_names(&names);
	if (!names.count)
		return true;
	return set_reason(reason, "the variable%s %s differ%s from the checkpoint's", names.count > 1 ? "s" : "", names.text,
			  names.count > 1 ? "" : "s");
}

bool warns_of_variables(const struct manifest *manifest)
{
	const char *setting = getenv("WARMSTART_ON_DIFFERENCE");

	if (setting && (!strcmp(setting, "cold") || !strcmp(setting, "warn")))
		return !strcmp(setting, "warn");
	if (setting)
		say("WARMSTART_ON_DIFFERENCE must be cold or warn");
	return manifest->warns;
}

static bool begins(const char *text, const char *start)
{
	return !strncmp(text, start, strlen(start));
}

static bool ends(const char *text, const char *end)
{
	size_t length = strlen(text);

	return length > strlen(end) && !strcmp(text + length - strlen(end), end);
}

static bool has_only(const char *text, const char *characters)
{
	return *text && !text[strspn(text, characters)];
}

static bool is_any(const char *word, const char *const *words)
{
	for (; *words; words++)
		if (!strcmp(word, *words))
			return true;
	return false;
}

/* The end of NAME_PORT_80_TCP_ADDR after _PORT_. */
static bool is_port_variable(const char *rest)
{
	static const char *const protocols[] = {"_TCP", "_UDP", "_SCTP", NULL};
	static const char *const parts[] = {"", "_PROTO", "_PORT", "_ADDR", NULL};
	size_t digits = strspn(rest, "0123456789");

	for (const char *const *protocol = protocols; digits && *protocol; protocol++)
		if (begins(rest + digits, *protocol) && is_any(rest + digits + strlen(*protocol), parts))
			return true;
	return false;
}

/* The kubelet sets these for each service (getServiceEnvVarMap in pkg/kubelet/envvars). Variables of people may have such
 * names too, but other values. */
static bool is_of_service(const char *name, const char *value)
{
	const char *port = strstr(name, "_SERVICE_PORT"), *rest = name;

	if (ends(name, "_SERVICE_HOST"))
		return has_only(value, "0123456789abcdef.:");
	if (port && port > name && (!port[strlen("_SERVICE_PORT")] || port[strlen("_SERVICE_PORT")] == '_'))
		return has_only(value, "0123456789");
	if (ends(name, "_PORT") && (begins(value, "tcp://") || begins(value, "udp://") || begins(value, "sctp://")))
		return true;
	while ((rest = strstr(rest, "_PORT_")) && rest > name) {
		rest += strlen("_PORT_");
		if (is_port_variable(rest))
			return true;
	}
	return false;
}

/* Runtimes and shells set these. */
static const char *const of_runtimes[] = {"HOSTNAME", "HOME",  "PATH",	"TERM", "container",
					  "PWD",      "OLDPWD", "SHLVL", "_",	 NULL};

static bool is_expected(const struct manifest *manifest, const char *name, const char *value)
{
	for (size_t i = 0; i < manifest->frozen_count; i++)
		if (!strcmp(name, manifest->frozen[i].name))
			return true;
	for (size_t i = 0; i < manifest->late_count; i++)
		if (!strcmp(name, manifest->late[i]) || !strcmp(manifest->late[i], "*"))
			return true;
	return begins(name, "KUBERNETES_") || begins(name, "WARMSTART") || is_any(name, of_runtimes) ||
	       is_of_service(name, value);
}

void tell_new_variables(const struct manifest *manifest, char **environment)
{
	struct names names = {0};

	for (; *environment; environment++) {
		char *name = strdup(*environment), *value = name ? strchr(name, '=') : NULL;

		if (value) {
			*value++ = 0;
			if (!is_expected(manifest, name, value))
				add_name(&names, name, "");
		}
		free(name);
	}
	end_names(&names);
	if (names.count)
		say("not in the environment of the restored application, because the build did not have %s: %s",
		    names.count > 1 ? "them" : "it", names.text);
}
