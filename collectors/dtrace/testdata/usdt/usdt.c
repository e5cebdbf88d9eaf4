// A program with the probes of MySQL, Node.js and Apache's httpd as SystemTap's <sys/sdt.h> writes them, which packages of
// those have where they are built with them: a note for each place, and a counter that says whether anybody listens, without
// which the arguments are not even made ready. It does what its first argument says.
#include <stdio.h>
#include <string.h>
#include <time.h>

__asm__(".pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat\n"
        ".weak _.stapsdt.base\n.hidden _.stapsdt.base\n_.stapsdt.base: .space 1\n.size _.stapsdt.base, 1\n.popsection\n");

#define COUNTER(provider, name) volatile unsigned short provider##_##name##_semaphore __attribute__((section(".probes")));
COUNTER(ap, process__request__entry)
COUNTER(ap, process__request__return)
COUNTER(ap, read__request__success)
COUNTER(mysql, command__done)
COUNTER(mysql, command__start)
COUNTER(mysql, connection__done)
COUNTER(mysql, connection__start)
COUNTER(mysql, delete__done)
COUNTER(mysql, delete__start)
COUNTER(mysql, filesort__done)
COUNTER(mysql, filesort__start)
COUNTER(mysql, insert__done)
COUNTER(mysql, insert__select__done)
COUNTER(mysql, insert__select__start)
COUNTER(mysql, insert__start)
COUNTER(mysql, multi__delete__done)
COUNTER(mysql, multi__delete__start)
COUNTER(mysql, multi__update__done)
COUNTER(mysql, multi__update__start)
COUNTER(mysql, query__done)
COUNTER(mysql, query__start)
COUNTER(mysql, select__done)
COUNTER(mysql, select__start)
COUNTER(mysql, update__done)
COUNTER(mysql, update__start)
COUNTER(node, gc__done)
COUNTER(node, gc__start)
COUNTER(node, http__client__request)
COUNTER(node, http__client__response)
COUNTER(node, http__server__request)
COUNTER(node, http__server__response)
COUNTER(p, n)

#define NOTE(provider, name, format, ...)                                                                    \
  do {                                                                                                       \
    if (provider##_##name##_semaphore)                                                                       \
      __asm__ volatile("990: nop\n.pushsection .note.stapsdt,\"\",\"note\"\n.balign 4\n"                     \
                       ".4byte 992f-991f, 994f-993f, 3\n991: .asciz \"stapsdt\"\n992: .balign 4\n"           \
                       "993: .8byte 990b, _.stapsdt.base, %c[listeners]\n"                                   \
                       ".asciz \"" #provider "\"\n.asciz \"" #name "\"\n.asciz \"" format "\"\n"              \
                       "994: .balign 4\n.popsection\n" ::[listeners] "i"(&provider##_##name##_semaphore), __VA_ARGS__); \
  } while (0)

#define A(x) "r"((long)(x))
#define PROBE1(p, n, a) NOTE(p, n, "8@%1", A(a))
#define PROBE2(p, n, a, b) NOTE(p, n, "8@%1 8@%2", A(a), A(b))
#define PROBE3(p, n, a, b, c) NOTE(p, n, "8@%1 8@%2 8@%3", A(a), A(b), A(c))
#define PROBE4(p, n, a, b, c, d) NOTE(p, n, "8@%1 8@%2 8@%3 8@%4", A(a), A(b), A(c), A(d))
#define PROBE5(p, n, a, b, c, d, e) NOTE(p, n, "8@%1 8@%2 8@%3 8@%4 8@%5", A(a), A(b), A(c), A(d), A(e))
#define PROBE7(p, n, a, b, c, d, e, f, g) \
  NOTE(p, n, "8@%1 8@%2 8@%3 8@%4 8@%5 8@%6 8@%7", A(a), A(b), A(c), A(d), A(e), A(f), A(g))

static void work(void) {
  struct timespec ms = {0, 1000000};
  nanosleep(&ms, NULL);
}

static void query(const char *text, const char *database, const char *user, int status) {
  PROBE4(mysql, command__start, 7, 3, user, "client.example");
  PROBE5(mysql, query__start, text, 7, database, user, "client.example");
  work();
  PROBE1(mysql, query__done, status);
  PROBE1(mysql, command__done, status);
}

static void mysql(void) {
  PROBE3(mysql, connection__start, 7, "alice", "client.example");
  query("SELECT 1", "shop", "alice", 0);
  query("SELECT 2", "shop", "alice", 0);
  query("INSERT INTO t", "stock", "bob", 1);
  PROBE4(mysql, command__start, 7, 14, "bob", "client.example");
  PROBE1(mysql, command__done, 0);
  PROBE2(mysql, connection__done, 0, 7);
  PROBE1(mysql, select__start, "SELECT 1");
  PROBE2(mysql, select__done, 0, 5);
  PROBE1(mysql, insert__start, "INSERT");
  PROBE2(mysql, insert__done, 0, 6);
  PROBE1(mysql, insert__select__start, "INSERT");
  PROBE2(mysql, insert__select__done, 1, 0);
  PROBE1(mysql, update__start, "UPDATE");
  PROBE3(mysql, update__done, 0, 8, 3);
  PROBE1(mysql, multi__update__start, "UPDATE");
  PROBE3(mysql, multi__update__done, 0, 9, 4);
  PROBE1(mysql, delete__start, "DELETE");
  PROBE2(mysql, delete__done, 0, 2);
  PROBE1(mysql, multi__delete__start, "DELETE");
  PROBE2(mysql, multi__delete__done, 0, 1);
  for (int i = 0; i < 3; i++) {
    PROBE2(mysql, filesort__start, i < 2 ? "shop" : "stock", "items");
    work();
    PROBE2(mysql, filesort__done, 0, 10);
  }
}

// The texts are on the stack, as those of Node.js are, and gone when the response comes.
static void served(long fd, const char *text, const char *remote) {
  char method[16], url[128], from[64];
  sscanf(text, "%15s %127s", method, url);
  strcpy(from, remote);
  PROBE7(node, http__server__request, 0, 0, from, 40000 + fd, method, url, fd);
  memset(url, 'x', sizeof url - 1);
  memset(method, 'x', sizeof method - 1);
}

static void answered(long fd, const char *remote) { PROBE4(node, http__server__response, 0, remote, 40000 + fd, fd); }

static void node(void) {
  for (int i = 0; i < 5; i++) {
    PROBE3(node, gc__start, i < 4 ? 1 : 2, 0, 0);
    work();
    PROBE3(node, gc__done, i < 4 ? 1 : 2, 0, 0);
  }
  served(11, "GET /index.html?a=1,b", "127.0.0.1");
  served(12, "POST /form", "::ffff:10.0.0.1"); // two at once
  work();
  answered(12, "::ffff:10.0.0.1");
  answered(11, "127.0.0.1");
  served(11, "GET /index.html?a=1,b", "127.0.0.1");
  answered(11, "127.0.0.1");
  PROBE7(node, http__client__request, 0, 0, "10.0.0.9", 80, "GET", "/there", 13);
  work();
  PROBE4(node, http__client__response, 0, "10.0.0.9", 80, 13);
}

static void apache(void) {
  static const char *uri[] = {"/", "/a?b", "/"};
  for (int i = 0; i < 3; i++) {
    PROBE5(ap, read__request__success, i + 1, i == 1 ? "POST" : "GET", uri[i], "localhost", 200);
    PROBE2(ap, process__request__entry, i + 1, uri[i]);
    work();
    PROBE3(ap, process__request__return, i + 1, uri[i], 200);
  }
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "mysql") == 0) mysql();
  if (argc > 1 && strcmp(argv[1], "node") == 0) node();
  if (argc > 1 && strcmp(argv[1], "apache") == 0) apache();
  return 0;
}
