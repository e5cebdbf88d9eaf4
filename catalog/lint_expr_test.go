package catalog

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTracingExpressionsAreComparedWithTheAllowList(t *testing.T) {
	for expr, reason := range map[string]string{
		`system("id")`:                    "acts on the machine",
		`signal(9)`:                       "acts on the machine",
		`cat("x")`:                        "reads files",
		`printf("x")`:                     "forges output",
		`exit()`:                          "ends the program",
		`str(arg0)`:                       "reads any memory",
		`buf(arg0, 8)`:                    "reads any memory",
		`reg("ip")`:                       "reads any memory",
		`kstack`:                          "kernel or foreign code",
		`cgroupid("x")`:                   "whether something exists",
		`sizeof(pid)`:                     "changes the language",
		`(struct task_struct)arg0`:        "changes the language",
		`*arg0`:                           "reads any memory",
		`pid + *arg0`:                     "reads any memory",
		`(uint64)*arg0`:                   "reads any memory",
		`mystery`:                         "not on the list",
		`pid; exit()`:                     "neither statements",
		`pid }`:                           "neither statements",
		`@x`:                              "neither statements",
		`pid = 1`:                         "neither statements",
		`pid++`:                           "neither statements",
		`pid // x`:                        "neither statements",
		`pid /* x */`:                     "neither statements",
		`"a\042"`:                         "neither statements",
		"pid\n":                           "neither statements",
		`#include`:                        "neither statements",
		`$1`:                              "goes with the names",
		`$target`:                         "goes with the names",
		`$`:                               "goes with the names",
		`(pid`:                            "parentheses",
		`pid)`:                            "parentheses",
		`)pid(`:                           "parentheses",
		``:                                "1 to 300 bytes",
		strings.Repeat("pid+", 100) + "1": "1 to 300 bytes",
	} {
		l := &linter{doc: new(document)}
		l.lintTokens("x", expr, bpftraceLanguage, map[string]bool{"t0": true})
		require.Contains(t, fmt.Sprint(l.issues), reason, expr)
	}
	for _, expr := range []string{
		"nsecs - $t0", "args->nr_sector * 512", "(uint64)args->ret", "curtask->real_parent->comm", `comm != "x y"`,
		"args->newstate == 1 && (args->oldstate == 2 || pid != 0)", "args->flags & 0x10000", "pid ? 1 : 0",
		"pid == tid && curtask->signal->group_exec_task == 0", "(curtask->signal->group_exit_task != 0) || pid", "-1", "!(pid == 1)", "~args->flags & 3", "(int32)args->fd == -1",
	} {
		l := &linter{doc: new(document)}
		l.lintTokens("x", expr, bpftraceLanguage, map[string]bool{"t0": true})
		require.Empty(t, l.issues, expr)
	}
	for expr, ok := range map[string]bool{
		"copyinstr(arg0)": true, "copyinstr($t0)": true, "copyinstr(arg0, 9999999)": false, "copyinstr(pid)": false,
		"fds[arg0].fi_fs": true, "curthread->t_procp->p_user.u_comm": true, "ustack()": false, "jstack(4)": false, "copyoutstr(0, 1, 2)": false,
		"copyin(arg0, 8)": false, "stringof(arg0)": false, `args[0]->b_flags & B_READ ? "read" : "write"`: true, "raise(9)": false,
		"copyinstr": false, "(uint16_t)args[1]->rq_rport": true, `strtok(args[0]->url, "?")`: true, "args[0][0]->v_op->vnop_name": true, "curpsinfo->pr_psargs": true,
	} {
		l := &linter{doc: new(document)}
		l.lintTokens("x", expr, dLanguage, map[string]bool{"t0": true})
		require.Equal(t, ok, len(l.issues) == 0, "%s: %v", expr, l.issues)
	}
}

// Everything that a tracer has and a definition may not say is refused with its reason, in both languages.
func TestWhatActsReadsOrForgesIsRefused(t *testing.T) {
	all := 0
	for reason, names := range map[string]string{
		"acts on the machine":                 "system signal signal_thread override write_user skboutput stop raise copyout copyoutstr freopen ftruncate breakpoint panic chill",
		"reads files or changes the language": "cat include define import macro config struct union typedef inline translator pragma sizeof",
		"forges output or ends the program":   "printf print printa join time strftime errorf warnf debugf exit trace tracemem clear zero delete trunc speculate commit discard",
		"reads any memory":                    "str buf kaddr uaddr uptr kptr reg copyin kstr stringof inet_ntoa inet_ntoa6 alloca bcopy",
		"tells of kernel or foreign code":     "ksym usym kstack ustack stack jstack func ufunc mod umod",
		"costs without bound":                 "unroll while for loop if else return",
		"belongs to the program's frame":      "BEGIN END interval count sum avg min max hist lhist quantize lquantize llquantize stats self this",
		"asks whether something exists":       "cgroupid cgroup_path path",
	} {
		for name := range strings.FieldsSeq(names) {
			all++
			for lang, language := range map[string]language{"bpftrace": bpftraceLanguage, "D": dLanguage} {
				for _, form := range []string{name, name + "()", name + `("x", 1)`, "pid + " + name + "(arg0)", "pid ? " + name + " : 0", "args->x[" + name + "]"} {
					l := &linter{doc: new(document)}
					l.lintTokens("x", form, language, map[string]bool{"t0": true})
					require.Contains(t, fmt.Sprint(l.issues), name+" is refused: it "+reason, "%s in %s", form, lang)
				}
			}
		}
	}
	require.Len(t, refused, all, "and nothing else is on the list")
	for lang, probes := range map[*language][]string{
		&bpftraceLanguage: {
			"BEGIN", "END", "interval:s:1", "watchpoint:0x1000:8:w", "asyncwatchpoint:f:8:w", "iter:task", "tracepoint:*:*", "tracepoint:syscalls:sys_enter_*",
			"kprobe:f+0x10", "kprobe:*", "kretprobe:f*", "uprobe:/bin/sh:main", "uretprobe:/bin/sh:main", "usdt:/tmp/x:a:b", "usdt:*:a:b", "usdt:/usr/bin/x:*",
			"usdt:/usr/bin/x:a:b, BEGIN", "usdt:/usr/../tmp/evil:a:b", "usdt:/usr/lib/../../tmp/x:a:b", "usdt:/usr/./x:a:b", "usdt:/usr//x:a:b", "usdt:/usr/x/:a:b", "usdt:/usr/...:a:b", "usdt:/user/x:a:b", "usdt:/usr:a:b", "software:faults:1", "hardware:cache-misses:1", "kfunc:f", "fentry:f", "rawtracepoint:x", "profile:us:1", "profile:hz:1000", "self:signal:SIGUSR1", "bench:x",
			"tracepoint:a:b /1/ { exit(); } tracepoint:a:c", "tracepoint:a:b,tracepoint:a:c",
		},
		&dLanguage: {
			"BEGIN", "END", "ERROR", "dtrace:::BEGIN", "fbt:::", "fbt::f:entry", "fbt:genunix::entry", "fbt:genunix:fop_*:entry", "sdt:::*", "pid$target:::entry", "pid123:a:b:entry", "plockstat*:::x",
			"profile:::tick-1s", "profile:::profile-4999", "syscall:::*", "syscall::*:entry", "io:::", "mysql*:::*", "lockstat:::x", "cpc:::x", "syscall:::entry /1/ { exit(0); } syscall:::return", "*", "",
		},
	} {
		for _, probe := range probes {
			require.False(t, lang.probe.MatchString(probe), probe)
		}
	}
	for _, option := range []string{"destructive", "defaultargs", "incdir", "libdir", "cpp", "define", "grabanon", "zone", "stackframes", "jstackstrsize", "Z", "w", "C"} {
		require.NotContains(t, dLanguage.options, option)
	}
	require.Empty(t, bpftraceLanguage.options)
}

// memoryReads are ways to read what an author chooses: a pointer made of a number, whatever follows it, an address, and
// members of structures that hold addresses or lead away from what the probe gives.
var memoryReads = map[string][]string{
	"bpftrace": {
		"((uint64 *)arg0)[0]", "((uint64 *)0xffffffff81000000)[0]", "(uint64 *)arg0", "((int8*)arg0)[1]", "(uint64)(uint64 *)arg0", "((uint64 * )arg0)[pid]",
		"(arg0)[0]", "arg0[0]", "$t0[0]", "$t0->next", "($t0)->next", "arg0->next", "comm[0]", "pid.x", "0xffffffff81000000[0]", "(0xffffffff81000000)->x",
		"args", "args->buf[0]", "args->file->f_pos", "args->buf->x", "args.buf.x", "(args)->buf", "args[0]", "args[0]->x", "args->", "args->(pid)", "&args->ret", "&comm", "pid & &pid",
		"curtask", "curtask->stack_canary", "curtask->mm", "curtask->mm->pgd", "curtask->real_parent", "curtask->files->fdt->fd[0]", "curtask[1]", "curtask[1].comm", "(curtask)->comm",
		"curtask->signal->group_exec_task", "curtask->signal->group_exec_task == 1", "curtask->signal->group_exec_task > 0", "curtask->signal->group_exec_task == 0x0", "curtask->signal->group_exec_task->comm",
		"5 - curtask->signal->group_exec_task == 0", "(uint64)curtask->signal->group_exec_task == 0", "curtask->signal->group_exec_task == 0 + pid", "0 == curtask->signal->group_exec_task", "-curtask->signal->group_exec_task == 0",
		"pid & curtask->signal->group_exec_task == 0", "curtask->signal == 0", "curtask->real_parent[3].comm", "curtask->comm[0]", "(curtask + 1)->comm", "curtask->cred->uid", "curtask->thread.sp", "curtask->comm->x",
		"ntop(*arg0)", "ntop(2, (uint32 *)arg0)", "ntop(2, arg0[0])", "ntop", "ntop(2, &pid)", "pid(1)", "uint64", "uint64 * arg0", "(uint64)", "uint64(arg0)", "(uint64_t)arg0",
		"(uint64)*arg0", "1 + * arg0", "-*arg0", "!*arg0", "~ * arg0", "(*arg0)", "pid ? *arg0 : 0", "pid ? 1 : *arg0", "pid * *arg0", "1 **arg0",
	},
	"D": {
		"((uint64_t *)arg0)[0]", "((uint64_t *)0xfffffffffb800000)[0]", "(uint64_t *)arg0", "inet_ntoa((uint32_t *)0xfffffffffb800000)", "inet_ntoa(&args[0]->x)", "inet_ntoa6(arg0)",
		"inet_ntoa(args[2]->addr)", "arg0[0]", "(arg0)[0]", "$t0[0]", "$t0->x", "args", "args[0]", "args[0][1]->x", "args[0][0][0]->x", "args[10]->x", "args[pid]->x", "args[0x1]->x", "args[0]->x[0]",
		"args[1][0]", "args->x", "args[0]->x.y[3]", "*args[0]->x", "&args[0]->x", "curthread", "curthread->t_stk", "curthread->t_procp", "curthread->t_procp->p_as", "curthread[1].t_pri",
		"curthread->t_procp->p_user.u_comm[100]", "curthread->t_procp->p_user", "curpsinfo", "curpsinfo->pr_addr", "curpsinfo[1].pr_pid", "curlwpsinfo->pr_wchan", "curlwpsinfo->pr_addr", "fds", "fds[0]", "fds[*arg0].fi_fs",
		"fds[0].fi_fs[9]", "fds[0]->fi_vnode", "lltostr(*arg0)", `strjoin("a", *arg0)`, "substr((uint8_t *)arg0, 0, 8)", "strtok(arg0[0], \"?\")", "(uint64)arg0", "execname[0]", "NULL[0]", "lltostr",
		"copyinstr(arg0)[0]", "strtok", "uint8_t", "sizeof(arg0)", "alloca(8)", "bcopy(arg0, arg1, 8)",
	},
}

func TestNothingThatAnAuthorChoosesIsRead(t *testing.T) {
	for name, lang := range map[string]language{"bpftrace": bpftraceLanguage, "D": dLanguage} {
		for _, expr := range memoryReads[name] {
			for _, form := range []string{expr, "(" + expr + ")", "1 + " + expr, "pid == 1 ? " + expr + " : 0"} {
				l := &linter{doc: new(document)}
				l.lintTokens("x", form, lang, map[string]bool{"t0": true})
				require.NotEmpty(t, l.issues, "%s: %s", name, form)
				require.Contains(t, fmt.Sprint(l.issues), "refused", "%s: %s tells why", name, form)
			}
		}
	}
}

// Whatever passes has the few forms that read memory, and no others.
func FuzzExpression(f *testing.F) {
	for _, list := range memoryReads {
		for _, expr := range list {
			f.Add(expr)
		}
	}
	for _, m := range embeddedCatalog(f).Metrics() {
		d, _ := embeddedCatalog(f).DefinitionOf(m.Name)
		for _, v := range d.Variants {
			for _, source := range []*TraceSource{v.Source.Bpftrace, v.Source.DTrace} {
				if source == nil {
					continue
				}
				for _, c := range source.Clauses {
					for _, expr := range c.expressions() {
						f.Add(expr)
					}
				}
			}
		}
	}
	ways := map[string]*regexp.Regexp{
		"bpftrace": regexp.MustCompile(`\bargs(->|\.)[A-Za-z_]\w*|\bcurtask((->|\.)[a-z_]+)+`),
		"D":        regexp.MustCompile(`\bargs\[[0-9]\](\[0\])?((->|\.)[A-Za-z_]\w*)+|\b(curpsinfo|curlwpsinfo|curthread)((->|\.)[a-z_]+)+|\](->|\.)fi_[a-z]+`),
	}
	f.Fuzz(func(t *testing.T, expr string) {
		for name, lang := range map[string]language{"bpftrace": bpftraceLanguage, "D": dLanguage} {
			l := &linter{doc: new(document)}
			l.lintTokens("x", expr, lang, map[string]bool{"t0": true})
			if len(l.issues) > 0 {
				continue
			}
			text := regexp.MustCompile(`"[^"]*"`).ReplaceAllString(strings.ReplaceAll(expr, " ", ""), "0") // what is within quotes does nothing
			require.NotRegexp(t, `int(8|16|32|64)(_t)?[^_)\w]`, text, "a type without its parenthesis")
			rest := ways[name].ReplaceAllString(text, "0")
			if name == "D" {
				rest = strings.ReplaceAll(rest, "fds[", "(")
			}
			require.NotRegexp(t, `->|\.|\[`, rest, "%s follows what is no way: %s", name, expr)
			require.NotRegexp(t, `(^|[^\w)\]$])[*&]([^&]|$)`, strings.ReplaceAll(text, "&&", "|"), "%s has an address or an indirection: %s", name, expr)
		}
	})
}

// What tells where a kernel keeps things is refused where the document shows it; the rest is left to the kernel, and to the
// compiler of D.
func TestAddressesAreRefusedAsValues(t *testing.T) {
	lint := func(lang language, visibility string, scope ScopeRule, c Clause) string {
		l := &linter{doc: &document{Visibility: visibility}}
		l.lintAddresses("x", &Variant{Places: []Place{Host, Zone}, Scope: scope}, &c, lang)
		return fmt.Sprint(l.issues)
	}
	field := func(t CType, expr string, probes ...string) Clause {
		return Clause{Probes: probes, Fields: map[string]TraceField{"x": {CType: t, Expr: expr}}}
	}
	const state = "tracepoint:sock:inet_sock_set_state"
	for _, expr := range []string{"args->skaddr", "(uint64) args -> skaddr >> 3", "args.skaddr", "args->dport + args->skaddr", "args->filename"} {
		for _, c := range []Clause{field(CTypeUint, expr, state), {If: expr}, {Value: expr}, {Save: map[string]Save{"x": {Key: []string{"pid"}, Expr: expr}}}} {
			require.Contains(t, lint(bpftraceLanguage, "operator", ScopeNone, c), "is an address", expr)
		}
	}
	for _, key := range []string{"args->skaddr / 32 % 2", "(args->skaddr)", "args->skaddr & 1"} {
		require.Contains(t, lint(bpftraceLanguage, "operator", ScopeNone, Clause{Probes: []string{state}, At: []string{key}}), "is an address", key)
		require.Contains(t, lint(bpftraceLanguage, "operator", ScopeNone, Clause{Save: map[string]Save{"x": {Key: []string{key}, Expr: "nsecs"}}}), "is an address", key)
	}
	require.Equal(t, "[]", lint(bpftraceLanguage, "tenant", ScopeSocketCgroup, Clause{Probes: []string{state}, At: []string{"args->skaddr"}, Save: map[string]Save{"x": {Key: []string{"args->skaddr"}, Expr: "nsecs"}}}))
	require.Contains(t, lint(bpftraceLanguage, "tenant", ScopeSocketCgroup, field(CTypeUint, "args->bytes_req", "tracepoint:kmem:kmalloc")), "is for operators")

	for _, c := range []Clause{
		field(CTypeUint, "arg0", "profile:::profile-99"), field(CTypeUint, "arg0 & 0xfff", "fbt:genunix:fop_read:entry"), field(CTypeUint, "arg0", "fbt:genunix:fop_read:return"),
		field(CTypeUint, "arg1", "fbt:genunix:fop_read:return", "fbt:genunix:fop_read:entry"), field(CTypeStr, "lltostr(arg0)", "sched:::off-cpu"),
		{Probes: []string{"proc:::exit"}, If: "arg1 == 0"}, {Probes: []string{"proc:::exit"}, Value: "arg1"},
	} {
		require.Contains(t, lint(dLanguage, "tenant", ScopeZonename, c), "is for operators", c)
		require.Equal(t, "[]", lint(dLanguage, "operator", ScopeZonename, c))
	}
	for _, c := range []Clause{
		field(CTypeUint, "arg1", "fbt:genunix:fop_read:return"), field(CTypeUint, "arg0", "syscall::read:return"), field(CTypeUint, "arg3", "sdt:::zvol-uio-done"),
		field(CTypeUint, "arg1", "mysql*:::query-done"), field(CTypeUint, "(uint16_t)args[1]->rq_rport", "httpd*:::x"),
		{Probes: []string{"io:::start"}, Save: map[string]Save{"t0": {Key: []string{"arg0"}, Expr: "timestamp"}}},
	} {
		require.Equal(t, "[]", lint(dLanguage, "tenant", ScopeZonename, c), c)
	}
	for _, c := range []Clause{field(CTypeStr, "lltostr((int64_t)args[0]->b_vp)", "io:::start"), {Probes: []string{"io:::start"}, If: "(uint64_t)args[0]->b_vp > 1"}} {
		require.Contains(t, lint(dLanguage, "operator", ScopeNone, c), "hides an address")
	}
}
