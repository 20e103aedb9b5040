/* Users and groups of the application.
 *
 * A user has the form of `User` in an image's configuration (OCI image specification, config.md). It is resolved as
 * runtimes do: with an explicit group there are no supplementary groups; otherwise they are the groups in /etc/group
 * that list the user's name.
 */
#include <errno.h>
#include <grp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launcher.h"

#define MAX_ID 0x7fffffff /* as in runtimes */

static char *field(char **rest)
{
	char *start = *rest, *end;

	if (!start)
		return "";
	end = strchr(start, ':');
	*rest = end ? end + 1 : NULL;
	if (end)
		*end = 0;
	return start;
}

static void add_group(struct identity *identity, gid_t group)
{
	for (size_t i = 0; i < identity->group_count; i++)
		if (identity->groups[i] == group)
			return;
	identity->groups = grow(identity->groups, identity->group_count, sizeof *identity->groups);
	identity->groups[identity->group_count++] = group;
}

/* Find the user by name or number, and return the name or NULL. Lines are name:password:uid:gid:comment:home:shell. */
static const char *find_user(const char *user, char *passwd, struct identity *identity)
{
	uint64_t number = 0, uid, gid;
	bool numeric = parse_number(user, MAX_ID, &number);

	for (char *line; (line = next_line(&passwd));) {
		char *name = field(&line);
		field(&line);
		if (!parse_number(field(&line), MAX_ID, &uid) || !parse_number(field(&line), MAX_ID, &gid))
			continue;
		if (strcmp(name, user) && !(numeric && uid == number))
			continue;
		field(&line);
		identity->user = uid;
		identity->group = gid;
		identity->home = field(&line);
		return name;
	}
	return NULL;
}

static bool lists(char *members, const char *name)
{
	for (char *member = strtok(members, ","); member; member = strtok(NULL, ","))
		if (!strcmp(member, name))
			return true;
	return false;
}

/* Set the named group or, without one, add the user's groups. Lines are name:password:gid:members. */
static bool find_groups(const char *named, const char *user, char *group, struct identity *identity)
{
	uint64_t number = 0, gid;
	bool numeric = named && parse_number(named, MAX_ID, &number);

	for (char *line; (line = next_line(&group));) {
		char *name = field(&line);
		field(&line);
		if (!parse_number(field(&line), MAX_ID, &gid))
			continue;
		if (!named) {
			if (lists(field(&line), user))
				add_group(identity, gid);
		} else if (!strcmp(name, named) || (numeric && gid == number)) {
			identity->group = gid;
			return true;
		}
	}
	if (numeric)
		identity->group = number;
	return numeric;
}

bool resolve_user(const char *user, char *passwd, char *group, struct identity *identity, struct reason *reason)
{
	char *own = strdup(user), *named = own ? strchr(own, ':') : NULL;
	const char *name;
	uint64_t number;

	if (!own)
		fail("out of memory");
	if (named)
		*named++ = 0;
	*identity = (struct identity){.home = ""};
	name = find_user(*own ? own : "0", passwd, identity);
	if (!name && *own) {
		if (!parse_number(own, MAX_ID, &number))
			return set_reason(reason, "the image has no user %s", own);
		identity->user = number;
	}
	if (!*identity->home)
		identity->home = "/";
	if (named && *named) {
		if (!find_groups(named, NULL, group, identity))
			return set_reason(reason, "the image has no group %s", named);
	} else if (name) {
		find_groups(NULL, name, group, identity);
	}
	return true;
}

bool add_groups(const char *list, struct identity *identity)
{
	char *own = strdup(list);
	uint64_t number;

	if (!own)
		fail("out of memory");
	for (char *word = strtok(own, ","); word; word = strtok(NULL, ",")) {
		if (!parse_number(word, MAX_ID, &number))
			return false;
		add_group(identity, number);
	}
	return true;
}

void current_identity(struct identity *identity)
{
	gid_t groups[1024];
	int count = getgroups(sizeof groups / sizeof *groups, groups);

	*identity = (struct identity){.user = geteuid(), .group = getegid()};
	for (int i = 0; i < count; i++)
		add_group(identity, groups[i]);
}

void become(const struct identity *identity)
{
	uid_t user = identity->user;
	gid_t group = identity->group;

	if (setgroups(identity->group_count, identity->groups) < 0 || setresgid(group, group, group) < 0 ||
	    setresuid(user, user, user) < 0)
		fail("cannot become user %u (needs CAP_SETUID and CAP_SETGID): %s", user, strerror(errno));
}

static bool is_subset(const struct identity *small, const struct identity *large)
{
	for (size_t i = 0, j; i < small->group_count; i++) {
		for (j = 0; j < large->group_count; j++)
			if (small->groups[i] == large->groups[j])
				break;
		if (j == large->group_count && small->groups[i] != large->group)
			return false;
	}
	return true;
}

/* Some runtimes repeat the group among the supplementary groups. It makes no difference. */
bool same_groups(const struct identity *a, const struct identity *b)
{
	return a->group == b->group && is_subset(a, b) && is_subset(b, a);
}
