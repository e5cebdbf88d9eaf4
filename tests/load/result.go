package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Result is what was measured. Times are in milliseconds and memory in bytes, unless the name says otherwise. What was not
// measured is absent.
type Result struct {
	At      time.Time `json:"at"`
	Go      string    `json:"go"`
	CPUs    int       `json:"cpus"`
	Load    string    `json:"loadAverage"` // of the machine, before
	Agents  int       `json:"agents"`
	Light   bool      `json:"light"` // the agents did no more than the protocol needs
	Seed    uint64    `json:"seed"`
	Connect *Connect  `json:"connect,omitempty"`
	Idle    *Idle     `json:"idle,omitempty"`
	One     *One      `json:"one,omitempty"`
	VM      *Latency  `json:"vmTag,omitempty"`
	All     *All      `json:"all,omitempty"`
	Kill    *Kill     `json:"kill,omitempty"`
	Rolling *Rolling  `json:"rolling,omitempty"`
	TLS     *Secured  `json:"tls,omitempty"`
	// Refused is how many reports the API did not take at once; agents repeat them.
	Refused int64             `json:"refusedReports"`
	Peers   map[string][]Push `json:"peers,omitempty"` // by kind of server
	// Others is, by phase, the share of the processors that neither servers nor agents used.
	Others map[string]float64 `json:"others"`
}

// Secured is what was measured over TLS.
type Secured struct {
	Connect *Connect           `json:"connect,omitempty"`
	Idle    *Idle              `json:"idle,omitempty"`
	All     *All               `json:"all,omitempty"`
	Others  map[string]float64 `json:"others"`
}

// Connect is how all agents came.
type Connect struct {
	Last            float64 `json:"last"` // until the last agent has its assignment
	PerSecond       float64 `json:"perSecond"`
	CPUPerAgent     float64 `json:"cpuPerAgent"` // of the API
	CPUWorker       float64 `json:"cpuWorker"`   // until they have their assignments, for each, in ms
	CPUStore        float64 `json:"cpuStore"`
	CPUAgents       float64 `json:"cpuAgents"`
	PeakOverSteady  float64 `json:"peakOverSteady"`  // resident memory while they came, and once they were there
	ResidentAtFirst float64 `json:"residentAtFirst"` // for each agent, before any memory is given back
}

// Idle is what an idle agent costs the API.
type Idle struct {
	Resident     float64 `json:"resident"` // after memory was given back
	Heap         float64 `json:"heap"`     // the same
	Stack        float64 `json:"stack"`    // the same
	Goroutines   float64 `json:"goroutines"`
	CPUPerSecond float64 `json:"cpuPerSecond"` // for all agents together
}

// Latency sums up many.
type Latency struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

// One is a change of one host, from the call of the mutation.
type One struct {
	Create Latency `json:"create"`
	Update Latency `json:"update"`
	Delete Latency `json:"delete"`
}

// All is a change of all hosts: medians over the rounds. CPU is in seconds for a thousand deliveries.
type All struct {
	Rounds    int     `json:"rounds"`
	Create    Latency `json:"create"`
	Delete    Latency `json:"delete"`
	CPUAPI    float64 `json:"cpuAPI"`
	CPUWorker float64 `json:"cpuWorker"`
	CPUStore  float64 `json:"cpuStore"`
	CPUAgents float64 `json:"cpuAgents"`
}

// Kill is what became of the agents of an API that was killed and started again at once.
type Kill struct {
	Back float64 `json:"back"` // from the kill until all are connected
	Last float64 `json:"last"` // until all have reported a change that was made as soon as the API was there
}

// Rolling is what became of the agents while two APIs were restarted one after the other.
type Rolling struct {
	Took           float64 `json:"took"`
	Back           float64 `json:"back"`           // the longest from a stop until all were connected again
	DialsPerSecond float64 `json:"dialsPerSecond"` // in the worst second
	Refused        int64   `json:"refusedReports"`
	Last           float64 `json:"last"` // until all have reported a change that was made afterwards
}

// Push is one measurement of a server that serves from memory.
type Push struct {
	Connect Connect `json:"connect"`
	Idle    Idle    `json:"idle"`
	One     Latency `json:"one"`
	All     Latency `json:"all"`
	CPU     float64 `json:"cpu"` // seconds for a thousand pushes to all
	Others  float64 `json:"others"`
}

func newResult(c agentsCmd) Result {
	r := Result{At: time.Now().UTC().Truncate(time.Second), Go: runtime.Version(), CPUs: runtime.NumCPU(), Agents: c.Count, Light: c.Light, Seed: c.Seed,
		Others: map[string]float64{}}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		r.Load = strings.Join(strings.Fields(string(load))[:3], " ")
	}
	return r
}

func ms(d time.Duration) float64 { return math.Round(float64(d)/float64(time.Microsecond)) / 1000 }

// summarize takes sorted durations.
func summarize(took []time.Duration) Latency {
	if len(took) == 0 {
		return Latency{}
	}
	at := func(q float64) float64 { return ms(took[min(int(q*float64(len(took))), len(took)-1)]) }
	return Latency{Count: len(took), P50: at(0.5), P99: at(0.99), Max: ms(took[len(took)-1])}
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}

// medians of the members of many.
func medians(all []Latency) Latency {
	pick := func(of func(Latency) float64) float64 {
		values := make([]float64, len(all))
		for i, l := range all {
			values[i] = of(l)
		}
		return median(values)
	}
	if len(all) == 0 {
		return Latency{}
	}
	return Latency{Count: all[0].Count, P50: pick(func(l Latency) float64 { return l.P50 }), P99: pick(func(l Latency) float64 { return l.P99 }),
		Max: pick(func(l Latency) float64 { return l.Max })}
}

func (r Result) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name string, values ...any) {
		fmt.Fprint(w, name)
		for _, v := range values {
			fmt.Fprintf(w, "\t%v", v)
		}
		fmt.Fprintln(w)
	}
	kind := "agents"
	if r.Light {
		kind = "light agents"
	}
	fmt.Fprintf(w, "%d %s, %d CPUs, %s, load average before %s\n\n", r.Agents, kind, r.CPUs, r.Go, r.Load)
	latency := func(name string, l Latency) {
		row(name, fmt.Sprintf("p50 %.1f ms", l.P50), fmt.Sprintf("p99 %.1f ms", l.P99), fmt.Sprintf("last %.1f ms", l.Max), fmt.Sprintf("of %d", l.Count))
	}
	printConnect(row, r.Connect, r.Idle)
	if r.One != nil {
		latency("one host: create → report", r.One.Create)
		latency("  update → report", r.One.Update)
		latency("  delete → report", r.One.Delete)
	}
	if r.VM != nil {
		latency("a VM's tag: hint → report", *r.VM)
	}
	printAll(row, latency, r.All)
	if r.Kill != nil {
		row("API killed: all back", seconds(r.Kill.Back))
		row("  all have reported a change", seconds(r.Kill.Last))
	}
	if r.Rolling != nil {
		row("rolling restart of two APIs", seconds(r.Rolling.Took), "all back after "+seconds(r.Rolling.Back)+" each time")
		row("  dials in the worst second", fmt.Sprintf("%.0f", r.Rolling.DialsPerSecond), fmt.Sprintf("%d reports refused", r.Rolling.Refused))
		row("  a change afterwards, last", seconds(r.Rolling.Last))
	}
	if r.TLS != nil {
		row("\nover TLS")
		printConnect(row, r.TLS.Connect, r.TLS.Idle)
		printAll(row, latency, r.TLS.All)
	}
	if len(r.Peers["iapi"]) > 0 && len(r.Peers["gqlgen"]) > 0 { // one alone compares nothing
		r.printPeers(row)
	}
	if len(r.Others) > 0 {
		var list []string
		for _, phase := range slices.Sorted(keys(r.Others)) {
			list = append(list, fmt.Sprintf("%s %.0f %%", phase, 100*r.Others[phase]))
		}
		row("\nprocessors used by others", strings.Join(list, ", "))
	}
	return w.Flush()
}

func printConnect(row func(string, ...any), c *Connect, i *Idle) {
	if c != nil {
		row("connect, last agent", seconds(c.Last), fmt.Sprintf("%.0f/s", c.PerSecond))
		row("  CPU for each, ms", fmt.Sprintf("API %.3f", c.CPUPerAgent), fmt.Sprintf("worker %.3f", c.CPUWorker), fmt.Sprintf("store %.3f", c.CPUStore), fmt.Sprintf("the agents %.3f", c.CPUAgents))
		row("  peak ÷ steady memory", fmt.Sprintf("%.2f", c.PeakOverSteady))
	}
	if i != nil {
		row("an idle agent, resident", kib(i.Resident))
		row("  heap, stack", kib(i.Heap), kib(i.Stack))
		row("  goroutines", fmt.Sprintf("%.2f", i.Goroutines))
		row("  API's CPU for all", fmt.Sprintf("%.1f ms/s", i.CPUPerSecond))
	}
}

func printAll(row func(string, ...any), latency func(string, Latency), a *All) {
	if a != nil {
		latency("all hosts: create → report", a.Create)
		latency("  delete → report", a.Delete)
		row("  CPU for 1,000 deliveries", fmt.Sprintf("API %.3f s", a.CPUAPI), fmt.Sprintf("worker %.3f s", a.CPUWorker), fmt.Sprintf("store %.3f s", a.CPUStore),
			fmt.Sprintf("the agents %.3f s", a.CPUAgents))
	}
}

// printPeers prints medians, and how many times as much the peer needs.
func (r Result) printPeers(row func(string, ...any)) {
	ours, theirs := r.Peers["iapi"], r.Peers["gqlgen"]
	row("\npush from memory", "iapi", "gqlgen", "gqlgen ÷ iapi")
	line := func(name, format string, of func(Push) float64) {
		pick := func(all []Push) float64 {
			values := make([]float64, len(all))
			for i, p := range all {
				values[i] = of(p)
			}
			return median(values)
		}
		a, b := pick(ours), pick(theirs)
		ratio := "" // of nothing
		if a > 0 {
			ratio = fmt.Sprintf("%.1f", b/a)
		}
		row(name, fmt.Sprintf(format, a), fmt.Sprintf(format, b), ratio)
	}
	line("connect, last agent, s", "%.2f", func(p Push) float64 { return p.Connect.Last / 1000 })
	line("  CPU for each, ms", "%.3f", func(p Push) float64 { return p.Connect.CPUPerAgent })
	line("an idle agent, resident, KiB", "%.1f", func(p Push) float64 { return p.Idle.Resident / 1024 })
	line("  heap, KiB", "%.1f", func(p Push) float64 { return p.Idle.Heap / 1024 })
	line("  stack, KiB", "%.1f", func(p Push) float64 { return p.Idle.Stack / 1024 })
	line("  goroutines", "%.2f", func(p Push) float64 { return p.Idle.Goroutines })
	line("one host, p50, ms", "%.2f", func(p Push) float64 { return p.One.P50 })
	line("  p99, ms", "%.2f", func(p Push) float64 { return p.One.P99 })
	line("all hosts, p50, ms", "%.0f", func(p Push) float64 { return p.All.P50 })
	line("  p99, ms", "%.0f", func(p Push) float64 { return p.All.P99 })
	line("  last, ms", "%.0f", func(p Push) float64 { return p.All.Max })
	line("  CPU for 1,000 pushes, s", "%.4f", func(p Push) float64 { return p.CPU })
	line("processors used by others, %", "%.0f", func(p Push) float64 { return 100 * p.Others })
}

func seconds(ms float64) string { return fmt.Sprintf("%.2f s", ms/1000) }
func kib(bytes float64) string  { return fmt.Sprintf("%.1f KiB", bytes/1024) }
