package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

var pictureScript = load("picture")

// castagnoli is the table of CRC32C.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// snapshotMagic begins a snapshot's file. Then come the CRC32C of the rest and the rest, a picture.
const snapshotMagic = "IAPI snapshot 1\n"

// picture is everything that the embedded server has at a moment.
type picture struct {
	Taken time.Time
	Seq   int64 // of the last mutation in it
	Keys  []pictured
}

// pictured is one key. Values are as the commands read and write them.
type pictured struct {
	Key, Kind string
	TTL       time.Duration // -1: unlimited
	Values    []string
}

// takePicture reads everything by one script, so that it fits together.
func takePicture(ctx context.Context, client *redis.Client, now time.Time) (*picture, error) {
	reply, err := pictureScript.run.Run(ctx, client, []string{record}).Slice()
	if err != nil {
		return nil, fault("read everything", err)
	}
	p := &picture{Taken: now}
	for _, r := range reply {
		k := pictured{Key: text(at(r, 0)), Kind: text(at(r, 1)), TTL: -1, Values: texts(at(r, 3))}
		if ms := number(at(r, 2)); ms >= 0 {
			k.TTL = time.Duration(ms) * time.Millisecond
		}
		switch k.Kind { // these have no order, and equal pictures shall have equal bytes
		case "set":
			slices.Sort(k.Values)
		case "hash":
			sortPairs(k.Values)
		}
		if k.Key == record+"seq" && len(k.Values) == 1 {
			p.Seq = number(k.Values[0])
		}
		p.Keys = append(p.Keys, k)
	}
	slices.SortFunc(p.Keys, func(a, b pictured) int { return strings.Compare(a.Key, b.Key) })
	return p, nil
}

// sortPairs sorts a list of names that are each followed by a value.
func sortPairs(v []string) {
	type pair struct{ name, value string }
	pairs := make([]pair, 0, len(v)/2)
	for i := 0; i+1 < len(v); i += 2 {
		pairs = append(pairs, pair{v[i], v[i+1]})
	}
	slices.SortFunc(pairs, func(a, b pair) int { return strings.Compare(a.name, b.name) })
	for i, p := range pairs {
		v[2*i], v[2*i+1] = p.name, p.value
	}
}

// digest is a hash of what a picture has, times aside.
func (p *picture) digest() uint32 {
	var sum uint32
	put := func(t string) {
		sum = crc32.Update(sum, castagnoli, binary.BigEndian.AppendUint64(nil, uint64(len(t))))
		sum = crc32.Update(sum, castagnoli, []byte(t))
	}
	for _, k := range p.Keys {
		put(k.Key)
		put(k.Kind)
		for _, v := range k.Values {
			put(v)
		}
	}
	return sum
}

// restore writes a picture into an empty server. Keys whose time has passed since are left out.
func (p *picture) restore(ctx context.Context, client *redis.Client, now time.Time) error {
	age := max(now.Sub(p.Taken), 0)
	for chunk := range slices.Chunk(p.Keys, 200) {
		_, err := client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for _, k := range chunk {
				if k.TTL >= 0 && k.TTL <= age {
					continue
				}
				if err := k.write(ctx, pipe); err != nil {
					return err
				}
				if k.TTL >= 0 {
					pipe.PExpire(ctx, k.Key, k.TTL-age)
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("restore the snapshot: %w", err)
		}
	}
	return nil
}

func (k *pictured) write(ctx context.Context, pipe redis.Pipeliner) error {
	command := map[string]string{"string": "SET", "hash": "HSET", "list": "RPUSH", "set": "SADD", "zset": "ZADD"}[k.Kind]
	switch {
	case len(k.Values) == 0:
	case k.Kind == "stream":
		for v := k.Values; len(v) > 0; {
			n := 0
			if len(v) > 1 {
				n = int(number(v[1]))
			}
			if n < 2 || len(v) < 2+n {
				return fmt.Errorf("stream %s is not valid", k.Key)
			}
			pipe.Do(ctx, append([]any{"XADD", k.Key, v[0]}, anys(v[2:2+n])...)...)
			v = v[2+n:]
		}
	case command == "":
		return fmt.Errorf("key %s has the unknown type %q", k.Key, k.Kind)
	case k.Kind == "zset":
		for chunk := range slices.Chunk(k.Values, 2000) {
			args := []any{command, k.Key}
			for i := 0; i+1 < len(chunk); i += 2 {
				args = append(args, chunk[i+1], chunk[i])
			}
			pipe.Do(ctx, args...)
		}
	default:
		for chunk := range slices.Chunk(k.Values, 2000) {
			pipe.Do(ctx, append([]any{command, k.Key}, anys(chunk)...)...)
		}
	}
	return nil
}

// save writes a picture to a file that is there whole or not at all.
func (p *picture) save(path string) error {
	var body bytes.Buffer
	if err := gob.NewEncoder(&body).Encode(p); err != nil {
		return fmt.Errorf("encode the snapshot: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".snapshot-*")
	if err != nil {
		return fmt.Errorf("write the snapshot: %w", err)
	}
	head := binary.BigEndian.AppendUint32([]byte(snapshotMagic), crc32.Checksum(body.Bytes(), castagnoli))
	_, err = f.Write(append(head, body.Bytes()...))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write the snapshot: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return syncDir(filepath.Dir(path))
}

// errDamaged: a file is not what was once written.
var errDamaged = errors.New("the file is damaged")

// decodePicture reads what save has written; anything else is errDamaged.
func decodePicture(b []byte) (*picture, error) {
	rest, ok := bytes.CutPrefix(b, []byte(snapshotMagic))
	if !ok || len(rest) < 4 {
		return nil, fmt.Errorf("%w: it is not a snapshot", errDamaged)
	}
	if crc32.Checksum(rest[4:], castagnoli) != binary.BigEndian.Uint32(rest) {
		return nil, fmt.Errorf("%w: its checksum is wrong", errDamaged)
	}
	var p picture
	if err := gob.NewDecoder(bytes.NewReader(rest[4:])).Decode(&p); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return &p, nil
}

// syncDir makes what was created or renamed in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync the directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync the directory: %w", err)
	}
	return nil
}
