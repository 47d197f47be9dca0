/*
 * libevent as one tunes it for many short lines: buffer events, changes of interest collected (EPOLL_USE_CHANGELIST),
 * all whole lines of a read moved or copied at once. libevent writes when the loop comes round, so lines that come
 * together leave together.
 *
 *     libevent echo|broadcast 127.0.0.1:PORT|unix:PATH        (cc -O2 libevent.c -levent_core)
 *     libevent --version
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <event2/util.h>

enum { READ_MAX = 64 * 1024, LINE_MAX_BYTES = 64 * 1024, OUTPUT_MAX_BYTES = 64 * 1024 * 1024 };

struct client {
    struct bufferevent *io;
    size_t place; /* in `clients` */
};

static struct client **clients;
static size_t count, room;
static int echo, tcp;

static void drop(struct client *client)
{
    clients[client->place] = clients[--count];
    clients[client->place]->place = client->place;
    bufferevent_free(client->io);
    free(client);
}

static void on_input(struct bufferevent *io, void *arg)
{
    struct client *me = arg;
    struct evbuffer *input = bufferevent_get_input(io);
    size_t length = evbuffer_get_length(input);
    unsigned char *data = evbuffer_pullup(input, -1);
    unsigned char *end = data ? memrchr(data, '\n', length) : NULL;
    if (!end) {
        if (length > LINE_MAX_BYTES)
            drop(me);
        return;
    }
    size_t lines = (size_t)(end - data) + 1;
    if (echo) {
        evbuffer_remove_buffer(input, bufferevent_get_output(io), lines);
        return;
    }
    for (size_t i = count; i-- > 0;) {
        struct client *other = clients[i];
        if (other == me)
            continue;
        if (evbuffer_get_length(bufferevent_get_output(other->io)) > OUTPUT_MAX_BYTES)
            drop(other); /* the one that takes its place was served before it */
        else
            bufferevent_write(other->io, data, lines);
    }
    evbuffer_drain(input, lines);
}

static void on_end(struct bufferevent *io, short what, void *arg)
{
    (void)io;
    (void)what;
    drop(arg);
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *from, int size, void *arg)
{
    (void)from;
    (void)size;
    (void)arg;
    int on = 1;
    struct client *client = malloc(sizeof *client);
    if (count == room) {
        room = room ? 2 * room : 64;
        clients = realloc(clients, room * sizeof *clients);
    }
    struct bufferevent *io = bufferevent_socket_new(evconnlistener_get_base(listener), fd, BEV_OPT_CLOSE_ON_FREE);
    if (!client || !clients || !io) {
        fprintf(stderr, "no memory\n");
        exit(1);
    }
    if (tcp)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    client->io = io;
    client->place = count;
    clients[count++] = client;
    bufferevent_set_max_single_read(io, READ_MAX);
    bufferevent_set_max_single_write(io, READ_MAX);
    bufferevent_setcb(io, on_input, NULL, on_end, client);
    bufferevent_enable(io, EV_READ | EV_WRITE);
}

int main(int argc, char **argv)
{
    struct sockaddr_storage address = {0};
    struct sockaddr_un *path = (struct sockaddr_un *)&address;
    int size = sizeof address;
    if (argc == 2 && !strcmp(argv[1], "--version"))
        return puts(event_get_version()) < 0;
    if (argc != 3 || (strcmp(argv[1], "echo") && strcmp(argv[1], "broadcast"))) {
        fprintf(stderr, "usage: libevent echo|broadcast 127.0.0.1:PORT|unix:PATH\n");
        return 2;
    }
    echo = !strcmp(argv[1], "echo");
    tcp = strncmp(argv[2], "unix:", 5) != 0;
    if (!tcp) {
        path->sun_family = AF_UNIX;
        snprintf(path->sun_path, sizeof path->sun_path, "%s", argv[2] + 5);
        size = sizeof *path;
    } else if (evutil_parse_sockaddr_port(argv[2], (struct sockaddr *)&address, &size)) {
        fprintf(stderr, "%s: no address\n", argv[2]);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    struct event_config *config = event_config_new();
    event_config_set_flag(config, EVENT_BASE_FLAG_EPOLL_USE_CHANGELIST);
    struct event_base *base = event_base_new_with_config(config);
    if (!evconnlistener_new_bind(base, on_accept, NULL, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_REUSEABLE, 4096,
                                 (struct sockaddr *)&address, size)) {
        perror(argv[2]);
        return 1;
    }
    return event_base_dispatch(base) < 0;
}
