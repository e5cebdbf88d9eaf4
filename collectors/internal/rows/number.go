package rows

import (
	"math"
	"strconv"
)

// parseCounter reads an unsigned decimal number of up to 64 bits.
func parseCounter(text []byte) (uint64, bool) {
	if len(text) == 0 || len(text) > 20 {
		return 0, false
	}
	var n uint64
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
		digit := uint64(c - '0')
		if n > (math.MaxUint64-digit)/10 {
			return 0, false
		}
		n = n*10 + digit
	}
	return n, true
}

// parseNumber reads a finite decimal number. Words such as "max", which cgroups use for no limit, are no number.
func parseNumber(text []byte) (float64, bool) {
	if n, ok := parseCounter(text); ok {
		return float64(n), true
	}
	if len(text) == 0 || len(text) > 64 || text[0] != '-' && text[0] != '.' && (text[0] < '0' || text[0] > '9') {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return 0, false
	}
	return f, true
}
