/* Listen before the application is restored, so that early clients wait instead of being refused.
 *
 * CRIU hands these sockets to the restored application (--inherit-fd).
 *
 * If there are steps after the restore, clients have to wait for their end as well, except those inside the pod: the
 * steps themselves may be clients. A filter on the socket lets a SYN pass, but no other segment from outside. So the
 * kernel answers, the client believes to be connected, and sends its request again and again, in intervals that begin
 * with 200 ms. The connection is complete with the first request after the filter has been removed.
 *
 * Some kernels let only root attach a filter. There, another socket listens on each address of the pod. It is more
 * specific than the application's, so it gets the clients from outside; and its queue is full, so the kernel drops
 * their SYN. They send it again after a second, and once that socket is closed, the application's gets it.
 */
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bpf.h"
#include "launcher.h"

/* The filter sees a segment from the TCP header on. See SKF_AD_OFF and SKF_AD_IFINDEX in linux/filter.h; the number of
 * the loopback interface is the same in all network namespaces. */
enum { INTERFACE = -0x1000 + 8, LOOPBACK = 1, TCP_FLAGS = 13, SYN = 2, WHOLE = 0x40000 };

static struct instruction from_inside[] = {
	LOAD((uint32_t)INTERFACE),
	IF_EQUAL(LOOPBACK, 2, 0),
	LOAD_BYTE(TCP_FLAGS),
	IF_SET(SYN, 0, 1),
	RETURN(WHOLE),
	RETURN(0),
};

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

static bool attach_filter(int fd)
{
	struct program program = PROGRAM(from_inside);

	return !setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

#define CONNECT_MS 100

/* Sockets with full queues. */
static int *deaf;
static size_t deaf_count;

/* A backlog of one is exceeded by the second connection. Those of ours are never accepted. */
static bool fill_queue(int fd, const struct sockaddr *address, socklen_t length)
{
	if (listen(fd, 1))
		return false;
	for (int i = 0; i < 2; i++) {
		int client = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

		if (client < 0)
			return false;
		connect(client, address, length);
		poll(&(struct pollfd){.fd = client, .events = POLLOUT}, 1, CONNECT_MS);
		close(client);
	}
	return true;
}

static void open_deaf(struct sockaddr *address, uint16_t port)
{
	bool is_v6 = address->sa_family == AF_INET6;
	socklen_t length = is_v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
	int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (is_v6)
		((struct sockaddr_in6 *)address)->sin6_port = htons(port);
	else
		((struct sockaddr_in *)address)->sin_port = htons(port);
	deaf = grow(deaf, deaf_count, sizeof *deaf);
	if (fd >= 0 && set(fd, SOL_SOCKET, SO_REUSEADDR, 1) && set(fd, SOL_SOCKET, SO_REUSEPORT, 1) &&
	    (!is_v6 || set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1)) && !bind(fd, address, length) &&
	    fill_queue(fd, address, length))
		deaf[deaf_count++] = fd;
	else if (fd >= 0)
		close(fd);
}

/* Take the clients from outside away from this listener. */
static void deafen(const struct listener *listener)
{
	struct ifaddrs *all, *each;

	if (getifaddrs(&all) < 0)
		return;
	for (each = all; each; each = each->ifa_next) {
		int family = each->ifa_addr ? each->ifa_addr->sa_family : AF_UNSPEC;
		bool serves_v4 = listener->family == AF_INET || !listener->v6_only;

		if (!(each->ifa_flags & IFF_LOOPBACK) &&
		    ((family == AF_INET && serves_v4) || (family == AF_INET6 && listener->family == AF_INET6)))
			open_deaf(each->ifa_addr, listener->port);
	}
	freeifaddrs(all);
}

static int open_listener(const struct listener *listener, bool hold_back)
{
	int fd = socket(listener->family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (hold_back && fd >= 0 && !attach_filter(fd))
		deafen(listener);
	if (fd >= 0 && bind_any(fd, listener) && !listen(fd, listener->backlog))
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

/* Leave a socket that cannot be opened here to CRIU: it opens the socket or reports the error. */
void listen_early(struct manifest *manifest, bool hold_back)
{
	for (size_t i = 0; i < manifest->listener_count; i++)
		manifest->listeners[i].fd = open_listener(&manifest->listeners[i], hold_back);
}

static void stop_holding_back(struct manifest *manifest)
{
	for (size_t i = 0; i < manifest->listener_count; i++)
		if (manifest->listeners[i].fd >= 0)
			set(manifest->listeners[i].fd, SOL_SOCKET, SO_DETACH_FILTER, 0);
	while (deaf_count > 0)
		close(deaf[--deaf_count]);
}

/* Close our copies. The application has its own. */
void stop_listening(struct manifest *manifest)
{
	stop_holding_back(manifest);
	for (size_t i = 0; i < manifest->listener_count; i++)
		if (manifest->listeners[i].fd >= 0)
			close(manifest->listeners[i].fd);
}
