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
mysql*:::command-done {
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

# by execname, pid, command, status, latency where execname != "x" && pid != "17" && psargs != "x" && command != "x" && user != "x" && client != "x" && status != "17" && latency >= 5 && cputime >= 5
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
mysql*:::command-start /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && ((execname) != "x") && ((uint64_t)(pid) != 17) && ((curpsinfo->pr_psargs) != "x")/ {
  self->s_client = copyinstr(arg3);
  self->s_command = arg1 + 1;
  self->s_t0 = timestamp;
  self->s_user = copyinstr(arg2);
  self->s_v0 = vtimestamp;
}
mysql*:::command-done /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && (self->s_client != NULL) && (self->s_command != 0) && (self->s_t0 != 0) && (self->s_user != NULL) && (self->s_v0 != 0)/ {
  this->f_latency = (uint64_t)(timestamp - self->s_t0);
  this->f_cputime = (uint64_t)(vtimestamp - self->s_v0);
  this->step = (uint64_t)((((this->f_latency < 1000) || (this->f_latency >= 1000000000000)) ? 0 : ((this->f_latency < 10000000) ? ((this->f_latency < 100000) ? ((this->f_latency < 10000) ? 100 : 1000) : ((this->f_latency < 1000000) ? 10000 : 100000)) : ((this->f_latency < 1000000000) ? ((this->f_latency < 100000000) ? 1000000 : 10000000) : ((this->f_latency < 10000000000) ? 100000000 : ((this->f_latency < 100000000000) ? 1000000000 : 10000000000))))));
  this->low = (uint64_t)(((this->step > 0) ? ((this->f_latency / this->step) * this->step) : ((this->f_latency < 1000) ? 0 : 1000000000000)));
}
mysql*:::command-done /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && (self->s_client != NULL) && (self->s_command != 0) && (self->s_t0 != 0) && (self->s_user != NULL) && (self->s_v0 != 0) && ((execname) != "x") && ((uint64_t)(pid) != 17) && ((curpsinfo->pr_psargs) != "x") && (((uint64_t)(self->s_command - 1) == 0) || ((uint64_t)(self->s_command - 1) == 1) || ((uint64_t)(self->s_command - 1) == 10) || ((uint64_t)(self->s_command - 1) == 11) || ((uint64_t)(self->s_command - 1) == 12) || ((uint64_t)(self->s_command - 1) == 13) || ((uint64_t)(self->s_command - 1) == 14) || ((uint64_t)(self->s_command - 1) == 15) || ((uint64_t)(self->s_command - 1) == 16) || ((uint64_t)(self->s_command - 1) == 17) || ((uint64_t)(self->s_command - 1) == 18) || ((uint64_t)(self->s_command - 1) == 19) || ((uint64_t)(self->s_command - 1) == 2) || ((uint64_t)(self->s_command - 1) == 20) || ((uint64_t)(self->s_command - 1) == 21) || ((uint64_t)(self->s_command - 1) == 22) || ((uint64_t)(self->s_command - 1) == 23) || ((uint64_t)(self->s_command - 1) == 24) || ((uint64_t)(self->s_command - 1) == 25) || ((uint64_t)(self->s_command - 1) == 26) || ((uint64_t)(self->s_command - 1) == 27) || ((uint64_t)(self->s_command - 1) == 28) || ((uint64_t)(self->s_command - 1) == 3) || ((uint64_t)(self->s_command - 1) == 4) || ((uint64_t)(self->s_command - 1) == 5) || ((uint64_t)(self->s_command - 1) == 6) || ((uint64_t)(self->s_command - 1) == 7) || ((uint64_t)(self->s_command - 1) == 8) || ((uint64_t)(self->s_command - 1) == 9)) && ((self->s_user) != "x") && ((self->s_client) != "x") && ((uint64_t)(arg0) != 17) && (((uint64_t)(self->s_command - 1) == 0) || ((uint64_t)(self->s_command - 1) == 1) || ((uint64_t)(self->s_command - 1) == 10) || ((uint64_t)(self->s_command - 1) == 11) || ((uint64_t)(self->s_command - 1) == 12) || ((uint64_t)(self->s_command - 1) == 13) || ((uint64_t)(self->s_command - 1) == 14) || ((uint64_t)(self->s_command - 1) == 15) || ((uint64_t)(self->s_command - 1) == 16) || ((uint64_t)(self->s_command - 1) == 17) || ((uint64_t)(self->s_command - 1) == 18) || ((uint64_t)(self->s_command - 1) == 19) || ((uint64_t)(self->s_command - 1) == 2) || ((uint64_t)(self->s_command - 1) == 20) || ((uint64_t)(self->s_command - 1) == 21) || ((uint64_t)(self->s_command - 1) == 22) || ((uint64_t)(self->s_command - 1) == 23) || ((uint64_t)(self->s_command - 1) == 24) || ((uint64_t)(self->s_command - 1) == 25) || ((uint64_t)(self->s_command - 1) == 26) || ((uint64_t)(self->s_command - 1) == 27) || ((uint64_t)(self->s_command - 1) == 28) || ((uint64_t)(self->s_command - 1) == 3) || ((uint64_t)(self->s_command - 1) == 4) || ((uint64_t)(self->s_command - 1) == 5) || ((uint64_t)(self->s_command - 1) == 6) || ((uint64_t)(self->s_command - 1) == 7) || ((uint64_t)(self->s_command - 1) == 8) || ((uint64_t)(self->s_command - 1) == 9)) && (this->f_latency >= 5) && (this->f_cputime >= 5)/ {
  @rows[zonename, this->low, (uint64_t)(pid), (uint64_t)(self->s_command - 1), (uint64_t)(arg0), (execname)] = count();
  @total[zonename] = count();
}
mysql*:::command-done /(self->s_client != NULL) && (self->s_command != 0) && (self->s_t0 != 0) && (self->s_user != NULL) && (self->s_v0 != 0)/ {
  self->s_client = 0;
  self->s_command = 0;
  self->s_t0 = 0;
  self->s_user = 0;
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
  printa("R\t%S\t%u\t%u\t%u\t%u\t%S\t%@d\n", @rows);
  printf("E\n");
  trunc(@total);
  trunc(@rows);
}

