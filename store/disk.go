package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"iapi/instrumentation"
)

// disk is the directory of the embedded server. Snapshots and journals are numbered: journal n has the mutations that were
// made after snapshot n was taken. The two newest snapshots are kept, and the journals from the older one on, so the older
// one will do when the newest is damaged.
type disk struct {
	dir     string
	log     *slog.Logger
	lock    *os.File
	journal *journal // nil before the first rotation
	broken  bool     // the journal lacks mutations that the server has made; nothing more is accepted before a snapshot
	number  uint64   // of the newest files
	kept    []uint64 // snapshots that are whole, oldest first
	digest  uint32   // of the newest snapshot
	saved   bool     // digest holds
}

func (d *disk) path(kind string, n uint64) string {
	return filepath.Join(d.dir, fmt.Sprintf("%s-%016x", kind, n))
}

// openDisk locks the directory, which it makes if there is none.
func openDisk(dir string, log *slog.Logger) (*disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the data directory cannot be made: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the data directory %s cannot be written: %w", dir, err)
	}
	if err := lockFile(lock); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s", ErrLocked, dir), lock.Close())
	}
	probe, err := os.CreateTemp(dir, ".probe-*")
	if err == nil {
		err = errors.Join(probe.Close(), os.Remove(probe.Name()))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the data directory %s cannot be written: %w", dir, err), lock.Close())
	}
	return &disk{dir: dir, log: log, lock: lock}, nil
}

// numbers returns the numbers of the files of a kind, ascending.
func (d *disk) numbers(kind string) ([]uint64, error) {
	files, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, fmt.Errorf("read the data directory: %w", err)
	}
	var out []uint64
	for _, f := range files {
		var n uint64
		if _, err := fmt.Sscanf(f.Name(), kind+"-%016x", &n); err == nil && f.Name() == filepath.Base(d.path(kind, n)) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

// aside keeps a damaged file under another name.
func (d *disk) aside(path string, keep bool, now time.Time) error {
	to := path + ".damaged-" + now.UTC().Format("20060102T150405.000000000")
	d.log.Error("a file of the embedded store is damaged; it is kept under another name and start goes on from what is good",
		"file", path, "kept", to)
	if keep {
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(to, b, 0o600)
		}
		if err != nil {
			return fmt.Errorf("keep the damaged file: %w", err)
		}
		return nil
	}
	if err := os.Rename(path, to); err != nil {
		return fmt.Errorf("keep the damaged file: %w", err)
	}
	return nil
}

// restore fills an empty server from the newest snapshot that is whole and the mutations since.
func (d *disk) restore(ctx context.Context, client *redis.Client, now time.Time) error {
	snapshots, err := d.numbers("snapshot")
	if err != nil {
		return err
	}
	journals, err := d.numbers("journal")
	if err != nil {
		return err
	}
	for _, n := range slices.Concat(snapshots, journals) {
		d.number = max(d.number, n)
	}
	seq := int64(0)
	for i := len(snapshots) - 1; i >= 0; i-- {
		path := d.path("snapshot", snapshots[i])
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read the snapshot: %w", err)
		}
		p, err := decodePicture(b)
		if errors.Is(err, errDamaged) {
			if err := d.aside(path, false, now); err != nil {
				return err
			}
			continue
		}
		if err := p.restore(ctx, client, now); err != nil {
			return err
		}
		seq, d.kept = p.Seq, []uint64{snapshots[i]}
		break
	}
	if len(snapshots) > 0 && len(d.kept) == 0 {
		// To go on from nothing is for whoever owns the data to decide.
		return fmt.Errorf("%w: it was kept aside in %s; put a good copy back, or start again to go on with what the journal has", ErrDamaged, d.dir)
	}
	replayed := 0
	for _, n := range journals {
		if len(d.kept) > 0 && n < d.kept[0] {
			continue
		}
		entries, err := d.read(d.path("journal", n), now)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.seq <= seq {
				continue
			}
			if err := replay(ctx, client, e); err != nil {
				return fmt.Errorf("replay the journal: mutation %d: %w", e.seq, err)
			}
			seq = e.seq
			replayed++
		}
	}
	if replayed > 0 {
		d.log.Info("mutations since the last snapshot were restored from the journal", "mutations", replayed)
		return reindex(ctx, client)
	}
	return nil
}

// read returns the entries of a journal, cuts a torn tail off, and keeps a damaged file.
func (d *disk) read(path string, now time.Time) ([]entry, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	entries, good, damaged := readJournal(b)
	if damaged {
		if err := d.aside(path, true, now); err != nil {
			return nil, err
		}
	}
	if good < len(b) {
		d.log.Warn("the journal ends in the middle of a mutation that was never answered; it is cut off",
			"file", path, "bytes", len(b)-good)
		if err := os.Truncate(path, int64(good)); err != nil {
			return nil, fmt.Errorf("cut the journal: %w", err)
		}
	}
	return entries, nil
}

// replay makes a mutation again, whatever its conditions, for they were met when it was made.
func replay(ctx context.Context, client *redis.Client, e entry) error {
	var sc *script
	for _, s := range []*script{commitScript, auditScript, fieldsScript} {
		if s.name == e.name {
			sc = s
		}
	}
	if sc == nil || len(e.args) < 2 {
		return fmt.Errorf("script %q is not known", e.name)
	}
	args := anys(e.args)
	args[1] = "1"
	if err := client.Set(ctx, record+"seq", e.seq-1, 0).Err(); err != nil {
		return fmt.Errorf("set the sequence: %w", err)
	}
	if err := sc.run.Run(ctx, client, []string{record}, args...).Err(); err != nil {
		return fmt.Errorf("run %s: %w", sc.name, err)
	}
	return nil
}

// reindex makes the indexes, quotas and expiries anew from the records. What the journal does not have, because another
// process wrote it or it was damaged, could otherwise leave them wrong.
func reindex(ctx context.Context, client *redis.Client) error {
	old, err := client.Keys(ctx, record+"ix:*").Result()
	if err != nil {
		return fmt.Errorf("read the indexes: %w", err)
	}
	old = append(old, record+"quota", record+"expires")
	records, err := client.HGetAll(ctx, record+"rec").Result()
	if err != nil {
		return fmt.Errorf("read the records: %w", err)
	}
	_, err = client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Del(ctx, old...)
		for id, t := range records {
			r, err := decode(instrumentation.ID(id), t)
			if err != nil {
				return err
			}
			for _, name := range index(r) {
				p.ZAdd(ctx, record+name, redis.Z{Member: id})
			}
			live, tracing := counted(r)
			if live > 0 {
				p.HIncrBy(ctx, record+"quota", r.Owner.String()+":live", int64(live))
			}
			if tracing > 0 {
				p.HIncrBy(ctx, record+"quota", r.Owner.String()+":tracing", int64(tracing))
			}
			if at := expiry(r); at > 0 {
				p.ZAdd(ctx, record+"expires", redis.Z{Score: float64(at), Member: id})
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("index the records: %w", err)
	}
	return nil
}

// append writes frames to the journal and returns when they are on the disk.
func (d *disk) append(frames []byte) error {
	_, err := d.journal.append(frames)
	d.broken = err != nil
	return err
}

// rotate saves a picture and begins the journal of what comes after it. Nothing is mutated meanwhile. A picture with nothing
// new is not saved.
func (d *disk) rotate(p *picture) error {
	digest := p.digest()
	if d.saved && !d.broken && digest == d.digest {
		return nil
	}
	n := d.number + 1
	next, err := createJournal(d.path("journal", n))
	if err != nil {
		return err
	}
	d.number = n
	if err := p.save(d.path("snapshot", n)); err != nil {
		// The old snapshots, the old journal and the new one together have everything, unless the old one lacks something.
		if d.broken || d.journal == nil {
			return errors.Join(err, next.close())
		}
		return errors.Join(err, d.use(next))
	}
	if err := d.use(next); err != nil {
		return err
	}
	d.broken, d.saved, d.digest = false, true, digest
	d.kept = append(d.kept, n)
	if len(d.kept) > 2 {
		d.kept = d.kept[len(d.kept)-2:]
	}
	return d.prune()
}

// use makes a journal the one that is written.
func (d *disk) use(next *journal) error {
	old := d.journal
	d.journal = next
	if err := syncDir(d.dir); err != nil {
		return err
	}
	if old == nil {
		return nil
	}
	if err := old.close(); err != nil {
		d.log.Warn("the journal that was replaced could not be closed", "error", err) // all of it was synced or refused
	}
	return nil
}

// prune removes the files that are not needed any more.
func (d *disk) prune() error {
	for _, kind := range []string{"snapshot", "journal"} {
		all, err := d.numbers(kind)
		if err != nil {
			return err
		}
		for _, n := range all {
			if n < d.kept[0] {
				if err := os.Remove(d.path(kind, n)); err != nil {
					return fmt.Errorf("remove an old file: %w", err)
				}
			}
		}
	}
	return nil
}

func (d *disk) close() error {
	var err error
	if d.journal != nil {
		err = d.journal.close()
	}
	return errors.Join(err, d.lock.Close())
}
