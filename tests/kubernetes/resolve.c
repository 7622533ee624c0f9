// SPDX-License-Identifier: Apache-2.0
/* Asks its C library for the addresses of a name, as programs do, and prints one a line. It is built
 * against glibc and musl, and run in pods. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int count, char **words)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *one;
	char text[INET6_ADDRSTRLEN];

	if (count != 2) {
		fprintf(stderr, "usage: resolve NAME\n");
		return 64;
	}
	int fault = getaddrinfo(words[1], NULL, &hints, &found);
	if (fault) {
		fprintf(stderr, "%s\n", gai_strerror(fault));
		return 1;
	}
	for (one = found; one; one = one->ai_next) {
		const void *address = one->ai_family == AF_INET6
			? (const void *)&((struct sockaddr_in6 *)one->ai_addr)->sin6_addr
			: (const void *)&((struct sockaddr_in *)one->ai_addr)->sin_addr;
		puts(inet_ntop(one->ai_family, address, text, sizeof text));
	}
	freeaddrinfo(found);
	return 0;
}
