/* Sockets that listen before the application is back, so that who connects meanwhile waits for it and is not refused.
 *
 * The restored application gets the very same ones, by CRIU's --inherit-fd.
 */
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "launcher.h"

static bool set(int fd, int level, int option, int value)
{
	return !setsockopt(fd, level, option, &value, sizeof value);
}

/* CRIU gives the socket the options that it had. These two are always set at first, as CRIU does it: the application
 * may have several sockets at one port. */
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

static int listen_like(const struct listener *listener)
{
	int fd = socket(listener->family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && bind_any(fd, listener) && !listen(fd, listener->backlog))
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

/* Without one of them the restore is as it would be without any: CRIU makes it, or says what is in its way. */
void listen_early(struct manifest *manifest)
{
	for (size_t i = 0; i < manifest->listener_count; i++)
		manifest->listeners[i].fd = listen_like(&manifest->listeners[i]);
}

/* Those that CRIU was given go on in the application. */
void stop_listening(struct manifest *manifest)
{
	for (size_t i = 0; i < manifest->listener_count; i++)
		if (manifest->listeners[i].fd >= 0)
			close(manifest->listeners[i].fd);
}
