/* Listen before the application is restored, so that early clients wait instead of being refused.
 *
 * CRIU hands these sockets to the restored application (--inherit-fd).
 */
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "launcher.h"

static bool set(int fd, int level, int option, int value)
{
	return !setsockopt(fd, level, option, &value, sizeof value);
}

/* CRIU restores the options of a socket later. It sets these two first, and so do we, because the application may have
 * several sockets on one port. */
static bool bind_any(int fd, const struct listener *listener)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(listener->port)};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(listener->port)};

	if (!set(fd, SOL_SOCKET, SO_REUSEADDR, 1) || !set(fd, SOL_SOCKET, SO_REUSEPORT, 1))
		return false;
	if (listener->family == AF_INET)
		return !bind(fd, (struct sockaddr *)&v4, sizeof v4);
	return set(fd, IPPROTO_IPV6, IPV6_V6ONLY, listener->v6_only) && !bind(fd, (struct sockaddr *)&v6, sizeof v6);
}

static int open_listener(const struct listener *listener)
{
	int fd = socket(listener->family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && bind_any(fd, listener) && !listen(fd, listener->backlog))
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

/* Leave a socket that cannot be opened here to CRIU: it opens the socket or reports the error. */
void listen_early(struct manifest *manifest)
{
	for (size_t i = 0; i < manifest->listener_count; i++)
		manifest->listeners[i].fd = open_listener(&manifest->listeners[i]);
}

/* Close our copies. The application has its own. */
void stop_listening(struct manifest *manifest)
{
	for (size_t i = 0; i < manifest->listener_count; i++)
		if (manifest->listeners[i].fd >= 0)
			close(manifest->listeners[i].fd);
}
