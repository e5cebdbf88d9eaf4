package main

import (
	"context"
	"time"
)

// overTLS measures some phases once more, on one API that speaks TLS.
func (l *load) overTLS(ctx context.Context) error {
	l.say("replacing the APIs by one that speaks TLS")
	l.stopFleet()
	for _, a := range l.cloud.APIs {
		if err := a.Stop(time.Minute); err != nil {
			return err
		}
	}
	l.cloud.APIs = nil
	if err := l.cloud.Secure(); err != nil {
		return err
	}
	if _, err := l.cloud.AddAPI(ctx); err != nil {
		return err
	}
	plain, profile := l.result, l.Profile
	l.result, l.Profile = Result{Others: map[string]float64{}}, ""
	err := l.connect(ctx)
	if err == nil && l.wants("all") {
		err = l.all(ctx)
	}
	secured := l.result
	l.result, l.Profile = plain, profile
	l.result.TLS = &Secured{Connect: secured.Connect, Idle: secured.Idle, All: secured.All, Others: secured.Others}
	return err
}
