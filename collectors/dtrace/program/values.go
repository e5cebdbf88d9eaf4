package program

import (
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"iapi/catalog"
	"iapi/measure"
)

// expr is the text of a field's value at a clause. What follows pointers, reads a program's memory or asks for stacks is
// written here, and never by a definition.
func (c *compiler) expr(t catalog.TraceField, def *catalog.Clause) string {
	expr := c.resolve(t.Expr, def)
	switch t.CType {
	case catalog.CTypeInt, catalog.CTypeUint:
		return c.lang.noAddress(expr)
	case catalog.CTypeSubsecond:
		if c.lang == D {
			return "(walltimestamp % 1000000000) / 1000000"
		}
		return "((nsecs + @offset) % 1000000000) / 1000000"
	case catalog.CTypeArguments:
		return "buf(uptr(" + argumentStart + "), curtask->mm->arg_end - " + argumentStart + ")"
	case catalog.CTypeText:
		if c.lang == D {
			return "substr(copyinstr(" + expr + "), 0, " + strconv.Itoa(t.Length) + ")"
		}
		return "str(" + expr + ", " + strconv.Itoa(t.Length) + ")"
	case catalog.CTypeChars:
		if c.lang == D {
			return "stringof(" + expr + ")"
		}
	case catalog.CTypeStack:
		return map[string]string{"kernel": "kstack", "user": "ustack"}[t.Expr] + "(perf, " + strconv.Itoa(t.Frames) + ")"
	case catalog.CTypeFSType:
		if !savedName.MatchString(t.Expr) {
			return fileOf(expr) + "->f_inode->i_sb->s_magic"
		}
	}
	return expr
}

// saved is the text of what an entry remembers.
func (c *compiler) saved(s catalog.Save) string {
	switch {
	case s.CType == catalog.CTypeFSType:
		return fileOf(s.Expr) + "->f_inode->i_sb->s_magic"
	case s.CType == catalog.CTypeText:
		return "str(" + s.Expr + ", " + strconv.Itoa(Bpftrace.maxText()) + ")"
	case s.CType == catalog.CTypeReadAt:
		return "(uint64)" + fileOf(s.Expr) + "->f_pos + 1"
	case s.CType == catalog.CTypeWriteAt: // what is opened with O_APPEND is written to at its end, wherever it stands
		appends := "((" + fileOf(s.Expr) + "->f_flags >> 10) & 1)"
		return "(uint64)" + fileOf(s.Expr) + "->f_inode->i_size * " + appends + " + (uint64)" + fileOf(s.Expr) + "->f_pos * (1 - " + appends + ") + 1"
	case s.CType == catalog.CTypeTCP: // a socket's file has nothing but the socket to it; of other files nothing is believed
		return "(" + fileOf(s.Expr) + "->f_inode->i_sb->s_magic == 0x534F434B) * (((struct socket *)" + fileOf(s.Expr) + "->private_data)->sk->sk_protocol == 6)"
	case s.CType == catalog.CTypeChars && c.lang == D:
		return "stringof(" + s.Expr + ")"
	case s.CType == "":
		return c.lang.noAddress(s.Expr)
	}
	return s.Expr
}

// fileOf walks from the number of an open file to the file. What is read of a number that is no open file's is 0, also where
// the number, which a program may choose, is beyond the process's table: what is found there is not followed.
func fileOf(number string) string {
	const table = "curtask->files->fdt->fd + "
	at := table + "(uint32)(" + number + ")"
	return "((struct file *)((uint64)*(" + at + ") * ((uint64)(" + at + ") < (uint64)(" + table + "curtask->files->fdt->max_fds))))"
}

// fileSystems names file systems by their magic numbers, as mount does; the kernel's own, such as those of sockets and
// pipes, as it names them. What is not here is shown as its number.
var fileSystems = map[uint64]string{
	0x0000EF53: "ext4", 0x58465342: "xfs", 0x9123683E: "btrfs", 0x2FC12FC1: "zfs", 0x794C7630: "overlay", 0x01021994: "tmpfs",
	0x858458F6: "ramfs", 0x00006969: "nfs", 0xFE534D42: "smb2", 0xFF534D42: "cifs", 0x65735546: "fuse", 0x00004D44: "vfat",
	0x2011BAB0: "exfat", 0x7366746E: "ntfs3", 0x73717368: "squashfs", 0x00009660: "iso9660", 0xF2F52010: "f2fs", 0xCA451A4E: "bcachefs",
	0x00C36400: "ceph", 0x01021997: "9p", 0x00009FA0: "proc", 0x62656572: "sysfs", 0x00001CD1: "devpts", 0x63677270: "cgroup2",
	0x0027E0EB: "cgroup", 0x64626720: "debugfs", 0x74726163: "tracefs", 0xCAFE4A11: "bpf", 0x958458F6: "hugetlbfs", 0x19800202: "mqueue",
	0x534F434B: "sockfs", 0x50495045: "pipefs", 0x09041934: "anon_inodefs", 0x6E736673: "nsfs", 0x50494446: "pidfs", 0x62646576: "bdev",
}

func fileSystemName(magic uint64) string {
	if name, known := fileSystems[magic]; known {
		return name
	}
	return "0x" + strconv.FormatUint(magic, 16)
}

// fileSystem compares the type of a file system by Eq or Ne.
func (c *compiler) fileSystem(expr string, op measure.Op, name string) cond {
	left := c.lang.number(expr, false)
	for magic, have := range fileSystems {
		if have == name {
			return compareUint{left: left, op: op, n: magic}
		}
	}
	if digits, isNumber := strings.CutPrefix(name, "0x"); isNumber {
		if magic, err := strconv.ParseUint(digits, 16, 64); err == nil && fileSystemName(magic) == name {
			return compareUint{left: left, op: op, n: magic}
		}
	}
	return never(op)
}

// maxErrno is above the greatest number that a kernel has for an error.
const maxErrno = 4096

// noError is the name of no error.
const noError = "none"

func errnoName(n uint64) string {
	if n == 0 {
		return noError
	}
	if n < maxErrno {
		if name := unix.ErrnoName(unix.Errno(n)); name != "" {
			return name
		}
	}
	return strconv.FormatUint(n, 10)
}

func errnoNumber(name string) (uint64, bool) {
	for n := range uint64(maxErrno) {
		if errnoName(n) == name {
			return n, true
		}
	}
	return 0, false
}

// Bounds of one stack's text.
const (
	maxFunction = 128
	maxStack    = 8 << 10
)

// folded makes of the lines that bpftrace prints of a stack, the innermost first and each with its address, offset and
// file, the names of the functions from the outermost in, joined by semicolons, as flame graphs are drawn from.
func folded(text string) string {
	var names []string
	size := 0
	for line := range strings.SplitSeq(text, "\n") {
		_, name, isFrame := strings.Cut(strings.TrimPrefix(line, "\t"), " ")
		if !isFrame {
			continue
		}
		if at := strings.LastIndex(name, " ("); at >= 0 && strings.HasSuffix(name, ")") { // the file that it is from
			name = name[:at]
		}
		if at := strings.LastIndexByte(name, '+'); at > 0 {
			if _, err := strconv.ParseUint(name[at+1:], 10, 64); err == nil {
				name = name[:at]
			}
		}
		if strings.HasPrefix(name, "0x") {
			name = "[unknown]"
		}
		name = strings.ReplaceAll(name[:min(len(name), maxFunction)], ";", ":")
		if size += len(name) + 1; size > maxStack {
			break
		}
		names = append(names, name)
	}
	slices.Reverse(names)
	return strings.Join(names, ";")
}
