# by  where true
#pragma D option quiet
#pragma D option aggrate=10hz
#pragma D option aggsize=4m
#pragma D option bufsize=256k
#pragma D option cleanrate=101hz
#pragma D option dynvarsize=32m
#pragma D option strsize=128
#pragma D option switchrate=10hz
BEGIN {
  iapi_end = timestamp + 60000000000;
  iapi_second = walltimestamp / 1000000000;
  printf("S\n");
}
postgres*:::query-done {
  @total[""] = count();
}
syscall::lseek:entry /(pid == 4711) && ((int)arg0 == -1) && ((int)arg2 == 1001)/ {
  iapi_end = timestamp + (int64_t)arg1;
}
profile:::tick-100hz /timestamp > iapi_end/ { exit(0); }
profile:::tick-100hz /(walltimestamp / 1000000000) != iapi_second/ {
  iapi_second = walltimestamp / 1000000000;
  printf("B\t%d\n", iapi_second);
  printa("N\t%S\t%@d\n", @total);
  printf("E\n");
  trunc(@total);
}

# by execname, pid, latency where execname != "x" && pid != "17" && psargs != "x" && query != "x" && querysubstr != "x" && latency >= 5 && cputime >= 5
#pragma D option quiet
#pragma D option aggrate=10hz
#pragma D option aggsize=4m
#pragma D option bufsize=256k
#pragma D option cleanrate=101hz
#pragma D option dynvarsize=32m
#pragma D option strsize=128
#pragma D option switchrate=10hz
BEGIN {
  iapi_end = timestamp + 60000000000;
  iapi_second = walltimestamp / 1000000000;
  printf("S\n");
}
postgres*:::query-start /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && ((execname) != "x") && ((uint64_t)(pid) != 17) && ((curpsinfo->pr_psargs) != "x")/ {
  self->s_t0 = timestamp;
  self->s_v0 = vtimestamp;
}
postgres*:::query-done /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && (self->s_t0 != 0) && (self->s_v0 != 0)/ {
  this->f_latency = (uint64_t)(timestamp - self->s_t0);
  this->f_cputime = (uint64_t)(vtimestamp - self->s_v0);
  this->step = (uint64_t)((((this->f_latency < 1000) || (this->f_latency >= 1000000000000)) ? 0 : ((this->f_latency < 10000000) ? ((this->f_latency < 100000) ? ((this->f_latency < 10000) ? 100 : 1000) : ((this->f_latency < 1000000) ? 10000 : 100000)) : ((this->f_latency < 1000000000) ? ((this->f_latency < 100000000) ? 1000000 : 10000000) : ((this->f_latency < 10000000000) ? 100000000 : ((this->f_latency < 100000000000) ? 1000000000 : 10000000000))))));
  this->low = (uint64_t)(((this->step > 0) ? ((this->f_latency / this->step) * this->step) : ((this->f_latency < 1000) ? 0 : 1000000000000)));
}
postgres*:::query-done /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && (self->s_t0 != 0) && (self->s_v0 != 0) && ((execname) != "x") && ((uint64_t)(pid) != 17) && ((curpsinfo->pr_psargs) != "x") && ((substr(copyinstr(arg0), 0, 63)) != "x") && ((substr(copyinstr(arg0), 0, 10)) != "x") && (this->f_latency >= 5) && (this->f_cputime >= 5)/ {
  @rows[zonename, this->low, (uint64_t)(pid), (execname)] = count();
  @total[zonename] = count();
}
postgres*:::query-done /(self->s_t0 != 0) && (self->s_v0 != 0)/ {
  self->s_t0 = 0;
  self->s_v0 = 0;
}
syscall::lseek:entry /(pid == 4711) && ((int)arg0 == -1) && ((int)arg2 == 1001)/ {
  iapi_end = timestamp + (int64_t)arg1;
}
profile:::tick-100hz /timestamp > iapi_end/ { exit(0); }
profile:::tick-100hz /(walltimestamp / 1000000000) != iapi_second/ {
  iapi_second = walltimestamp / 1000000000;
  printf("B\t%d\n", iapi_second);
  printa("N\t%S\t%@d\n", @total);
  printa("R\t%S\t%u\t%u\t%S\t%@d\n", @rows);
  printf("E\n");
  trunc(@total);
  trunc(@rows);
}

